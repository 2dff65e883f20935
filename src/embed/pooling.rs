//! Token vectors → one vector per text.

use crate::error::{Error, ErrorKind, Result};
use crate::model::Pooling;

/// Pools the rows of one text (at least one token), each cut to `dimension` columns, scales the
/// result to length 1 if asked, and appends it to `out`.
///
/// # Errors
/// `ModelMismatch` when the vector has no direction: weights that are damaged or not this model's.
pub(super) fn pool<'a>(
    mut rows: impl ExactSizeIterator<Item = &'a [f32]> + DoubleEndedIterator,
    dimension: usize,
    pooling: Pooling,
    normalize: bool,
    out: &mut Vec<f32>,
) -> Result<()> {
    let start = out.len();
    let count = rows.len();
    match pooling {
        Pooling::Cls => out.extend(rows.next().into_iter().flat_map(|r| &r[..dimension])),
        Pooling::LastToken => out.extend(rows.next_back().into_iter().flat_map(|r| &r[..dimension])),
        Pooling::Mean => {
            out.resize(start + dimension, 0.0);
            let sums = &mut out[start..];
            for row in rows {
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum += x;
                }
            }
            let scale = 1.0 / count as f32;
            sums.iter_mut().for_each(|x| *x *= scale);
        }
    }
    let vector = &mut out[start..];
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return Err(Error::new(ErrorKind::ModelMismatch, "the model computed a vector without a direction")
            .with("length", length)
            .guidance("the weights are damaged or do not belong to this architecture"));
    }
    if normalize {
        let scale = (1.0 / length) as f32;
        vector.iter_mut().for_each(|x| *x *= scale);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pooling_takes_its_rows() {
        let hidden = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0];
        let pooled = |pooling| {
            let mut out = vec![7.0];
            pool(hidden.chunks_exact(2), 2, pooling, false, &mut out).unwrap();
            out
        };
        assert_eq!(pooled(Pooling::Cls), [7.0, 1.0, 2.0]);
        assert_eq!(pooled(Pooling::LastToken), [7.0, 5.0, 9.0]);
        assert_eq!(pooled(Pooling::Mean), [7.0, 3.0, 5.0]);
    }

    #[test]
    fn unit_length_or_an_error() {
        let mut out = Vec::new();
        pool([[3.0, 4.0].as_slice()].into_iter(), 2, Pooling::Cls, true, &mut out).unwrap();
        assert_eq!(out, [0.6, 0.8]);
        assert_eq!(
            pool([[0.0, 0.0].as_slice()].into_iter(), 2, Pooling::Cls, true, &mut out).unwrap_err().kind(),
            ErrorKind::ModelMismatch
        );
        assert!(pool([[f32::NAN, 0.0].as_slice()].into_iter(), 2, Pooling::Cls, false, &mut out).is_err());
    }
}
