//! Matrices of activations: rows of numbers in one format, aligned, with room behind the last row.

/// Rows behind the last that kernels may read and that never count.
pub(super) const SLACK: usize = 32;
/// Words in a cache line.
const LINE: usize = 16;
/// Columns to which rows are filled up: two of the longest vectors.
pub(super) const COLUMNS: usize = 32;

/// How the numbers of a matrix are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// 32-bit floats.
    F32,
    /// 32-bit floats with the precision of bfloat16.
    Rounded,
    /// bfloat16, two in a word.
    Bf16,
    /// 8-bit integers, four in a word, with a scale and an offset per row.
    Int8,
}

impl Format {
    /// Numbers in a 32-bit word.
    pub(crate) fn density(self) -> usize {
        match self {
            Self::F32 | Self::Rounded => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
        }
    }
}

/// A cache line; vectors that begin at one never cross another.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; LINE]);

/// Words in memory, at the start of a cache line.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffer(Vec<Line>);

impl Buffer {
    pub(super) fn zeroed(words: usize) -> Self {
        Self(vec![Line([0; 16]); words.div_ceil(16)])
    }

    /// Makes room for this many words; what was in it is lost.
    pub(super) fn grow(&mut self, words: usize) {
        if self.len() < words {
            *self = Self::zeroed(words);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len() * 16
    }

    pub(super) fn words(&self) -> &[u32] {
        // SAFETY: a line is sixteen words without padding between them.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.len()) }
    }

    pub(super) fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and the buffer is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.len()) }
    }

    pub(super) fn floats(&self) -> &[f32] {
        // SAFETY: as above; every bit pattern is a float.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.len()) }
    }

    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the buffer is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.len()) }
    }
}

/// A matrix of activations.
#[derive(Debug)]
pub(crate) struct Rows {
    format: Format,
    count: usize,
    width: usize,
    /// Words from row to row.
    stride: usize,
    data: Buffer,
    /// Of each row, in 8 bits: x ≈ scale · q + offset.
    pub(super) scales: Vec<f32>,
    pub(super) offsets: Vec<f32>,
}

impl Rows {
    /// A matrix without rows; [`Rows::reset`] gives it some.
    pub(crate) fn new(format: Format, width: usize) -> Self {
        // An odd number of cache lines: at a power of two, the rows of a tile would fall on the same
        // few places of the first-level cache.
        let stride = (width.next_multiple_of(COLUMNS) / format.density()).next_multiple_of(LINE);
        let stride = stride + if (stride / LINE).is_multiple_of(2) { LINE } else { 0 };
        Self { format, count: 0, width, stride, data: Buffer::default(), scales: Vec::new(), offsets: Vec::new() }
    }

    /// Gives the matrix `count` rows with any content.
    pub(crate) fn reset(&mut self, count: usize) {
        self.count = count;
        self.data.grow((count + SLACK) * self.stride + COLUMNS);
        if self.format == Format::Int8 {
            self.scales.resize(count + SLACK, 0.0);
            self.offsets.resize(count + SLACK, 0.0);
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The first word; behind it are `count + SLACK` rows of `stride` words and a vector.
    pub(super) fn pointer(&self) -> *const u32 {
        self.data.words().as_ptr()
    }

    pub(super) fn pointer_mut(&mut self) -> *mut u32 {
        self.data.words_mut().as_mut_ptr()
    }

    /// A row of 32-bit floats.
    ///
    /// # Panics
    /// When the matrix has another format or fewer rows.
    pub(crate) fn row(&self, i: usize) -> &[f32] {
        assert!(self.format.density() == 1 && i < self.count);
        &self.data.floats()[i * self.stride..][..self.width]
    }

    /// A row of 32-bit floats to write to.
    ///
    /// # Panics
    /// When the matrix has another format or fewer rows.
    pub(crate) fn row_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(self.format.density() == 1 && i < self.count);
        &mut self.data.floats_mut()[i * self.stride..][..self.width]
    }
}
