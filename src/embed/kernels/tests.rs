use proptest::prelude::*;

use super::*;

/// Numbers in [-1, 1) from a seed.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Rows of 32-bit floats with these numbers, and rubbish behind them.
fn rows(values: &[f32], width: usize) -> Rows {
    let mut rows = Rows::new(Format::F32, width);
    rows.reset(values.len() / width);
    for (i, row) in values.chunks_exact(width).enumerate() {
        rows.row_mut(i).copy_from_slice(row);
    }
    rows
}

fn operand(cpu: Cpu, format: Format, values: &[f32], width: usize) -> Rows {
    let mut out = Rows::new(format, width);
    out.reset(values.len() / width);
    cpu.convert(&rows(values, width), &mut out);
    out
}

fn formats(cpu: Cpu) -> Vec<Format> {
    vec![Format::F32, Format::Rounded, cpu.bf16(), Format::Int8]
}

/// Every way through the kernels that this machine has.
fn paths() -> impl Iterator<Item = (Cpu, Format)> {
    Cpu::all().into_iter().flat_map(|cpu| formats(cpu).into_iter().map(move |f| (cpu, f))).filter(|(cpu, f)| {
        // Where bfloat16 is multiplied nothing is rounded, and other products are tested once.
        *f != Format::Rounded || cpu.bf16() == Format::Rounded
    })
}

/// The largest error of one number of the product: of rounding sums, and of both operands.
fn allowed(format: Format, depth: usize) -> f64 {
    let depth = depth as f64;
    match format {
        Format::F32 => 1e-6 * depth.max(1.0),
        // Each product is off by two roundings of 2^-9; they are independent.
        Format::Rounded | Format::Bf16 => 6.0 * depth.sqrt() / 512.0,
        // Steps of 2/255 and 1/127 of the largest number.
        Format::Int8 => 6.0 * depth.sqrt() / 127.0,
    }
}

fn exact(a: &[f32], w: &[f32], bias: &[f32], depth: usize) -> Vec<f64> {
    a.chunks_exact(depth)
        .flat_map(|a| {
            w.chunks_exact(depth).zip(bias).map(move |(w, b)| {
                a.iter().zip(w).map(|(a, w)| f64::from(*a) * f64::from(*w)).sum::<f64>() + f64::from(*b)
            })
        })
        .collect()
}

/// erf by its Taylor series in f64: exact to about 1e-12 for |x| ≤ 5.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Gelu => x / 2.0 * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            x / 2.0 * (1.0 + u.tanh())
        }
    }
}

#[test]
fn each_way_of_this_machine_is_listed_once_and_the_last_is_portable() {
    let all = Cpu::all();
    assert_eq!(all[0], Cpu::detect());
    assert_eq!(all.last().unwrap().name(), "portable");
    let mut names: Vec<_> = all.iter().map(|c| c.name()).collect();
    names.dedup();
    assert_eq!(names.len(), all.len());
}

#[test]
fn activations_are_exact_to_a_millionth() {
    // Through a product with the identity, which leaves numbers as they are.
    let xs: Vec<f32> = (-6000..=6000).map(|i| i as f32 / 1000.0).collect();
    for cpu in Cpu::all() {
        let one = Linear::new(cpu, Format::F32, &[1.0], 1, 1, None);
        let a = operand(cpu, Format::F32, &xs, 1);
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::None] {
            let mut out = rows(&vec![0.0; xs.len()], 1);
            cpu.product(&a, &one, Out::Put(&mut out, activation));
            for (i, x) in xs.iter().enumerate() {
                let (expected, y) = (activated(activation, f64::from(*x)), f64::from(out.row(i)[0]));
                assert!(
                    (y - expected).abs() < 1e-6 * f64::from(x.abs().max(1.0)),
                    "{} {activation:?} {x}: {y} {expected}",
                    cpu.name()
                );
            }
        }
        for (x, activation) in [-100.0_f32, -20.0, 20.0, 100.0]
            .into_iter()
            .flat_map(|x| [Activation::Gelu, Activation::GeluTanh, Activation::Silu].map(|a| (x, a)))
        {
            let mut out = rows(&[0.0], 1);
            cpu.product(&operand(cpu, Format::F32, &[x], 1), &one, Out::Put(&mut out, activation));
            assert!((out.row(0)[0] - x.max(0.0)).abs() < 1e-6 * x.abs(), "{} {activation:?} {x}", cpu.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_match_f64(
        count in 1_usize..30, depth in 1_usize..140, outputs in 1_usize..80, seed in any::<u64>(),
    ) {
        let (a, w, bias) = (noise(count * depth, seed), noise(outputs * depth, !seed), noise(outputs, seed ^ 7));
        let expected = exact(&a, &w, &bias, depth);
        for (cpu, format) in paths() {
            let packed = Linear::new(cpu, format, &w, outputs, depth, Some(&bias));
            let a = operand(cpu, format, &a, depth);
            let before = noise(count * outputs, seed ^ 9);
            let mut put = Rows::new(Format::F32, outputs);
            put.reset(count);
            cpu.product(&a, &packed, Out::Put(&mut put, Activation::None));
            let mut add = rows(&before, outputs);
            cpu.product(&a, &packed, Out::Add(&mut add));
            for (i, expected) in expected.iter().enumerate() {
                let (row, column) = (i / outputs, i % outputs);
                let (got, sum) = (f64::from(put.row(row)[column]), f64::from(add.row(row)[column]));
                let off = allowed(format, depth);
                prop_assert!((got - expected).abs() < off, "{} {format:?} {got} {expected}", cpu.name());
                prop_assert!((sum - expected - f64::from(before[i])).abs() < off + 1e-6);
            }
        }
    }

    #[test]
    fn gated_products_match_f64(
        count in 1_usize..20, depth in 1_usize..60, outputs in 1_usize..80, seed in any::<u64>(),
    ) {
        let (a, gate, up) = (noise(count * depth, seed), noise(outputs * depth, !seed), noise(outputs * depth, seed ^ 7));
        let none = vec![0.0; outputs];
        let (g, u) = (exact(&a, &gate, &none, depth), exact(&a, &up, &none, depth));
        for (cpu, format) in paths() {
            let packed = Linear::gated(cpu, format, &gate, &up, outputs, depth);
            let mut out = Rows::new(Format::F32, outputs);
            out.reset(count);
            cpu.product(&operand(cpu, format, &a, depth), &packed, Out::Put(&mut out, Activation::Silu));
            for (i, (g, u)) in g.iter().zip(&u).enumerate() {
                let expected = activated(Activation::Silu, *g) * u;
                let got = f64::from(out.row(i / outputs)[i % outputs]);
                let off = allowed(format, depth) * (1.0 + g.abs() + u.abs());
                prop_assert!((got - expected).abs() < off, "{} {format:?} {got} {expected}", cpu.name());
            }
        }
    }

    /// What a product stores is what the next one reads.
    #[test]
    fn products_chain(count in 1_usize..20, depth in 1_usize..40, middle in 1_usize..70, seed in any::<u64>()) {
        let (a, w1, w2) = (noise(count * depth, seed), noise(middle * depth, !seed), noise(middle, seed ^ 7));
        let between: Vec<f32> = exact(&a, &w1, &vec![0.0; middle], depth).iter().map(|x| *x as f32).collect();
        let expected = exact(&between, &w2, &[0.0], middle);
        for (cpu, format) in paths().filter(|(_, f)| *f != Format::Int8) {
            let (one, two) = (
                Linear::new(cpu, format, &w1, middle, depth, None), Linear::new(cpu, format, &w2, 1, middle, None));
            let (mut between, mut out) = (Rows::new(format, middle), Rows::new(Format::F32, 1));
            between.reset(count);
            out.reset(count);
            cpu.product(&operand(cpu, format, &a, depth), &one, Out::Put(&mut between, Activation::None));
            cpu.product(&between, &two, Out::Put(&mut out, Activation::None));
            for (i, e) in expected.iter().enumerate() {
                let (got, off) = (f64::from(out.row(i)[0]), allowed(format, depth * middle));
                prop_assert!((got - e).abs() < off, "{} {format:?} {got} {e}", cpu.name());
            }
        }
    }

    #[test]
    fn attention_is_softmax_of_scores_times_values(
        lengths in prop::collection::vec(1_usize..75, 1..3), shared in 1_usize..3, group in 1_usize..3,
        half in 1_usize..35, reach in 0_usize..3, near in 0_usize..40, biased in any::<bool>(), seed in any::<u64>(),
    ) {
        let heads = Heads { queries: shared * group, shared, width: 2 * half };
        let reach = [Reach::All, Reach::Before, Reach::Near(near)][reach];
        let (count, width) = (lengths.iter().sum::<usize>(), heads.columns());
        let values = noise(count * width, seed);
        let most = 80;
        let table = noise(heads.queries * (2 * most + 1), seed ^ 5);
        let distances = biased.then_some(table.as_slice());
        let mut expected = vec![0.0_f64; count * heads.queries * heads.width];
        let at = |token: usize, head: usize, i: usize| f64::from(values[token * width + head * heads.width + i]);
        let mut start = 0;
        for length in &lengths {
            for (q, h) in (0..*length).flat_map(|q| (0..heads.queries).map(move |h| (q, h))) {
                let (k, v) = (heads.queries + h / group, heads.queries + shared + h / group);
                let (low, high) = reach.of(q, *length);
                let scores: Vec<f64> = (low..high).map(|j| {
                    let score: f64 = (0..heads.width).map(|i| at(start + q, h, i) * at(start + j, k, i)).sum();
                    let bias = table[h * (2 * most + 1) + j + most - q];
                    (score + if biased { f64::from(bias) } else { 0.0 }).exp()
                }).collect();
                let sum: f64 = scores.iter().sum();
                for i in 0..heads.width {
                    expected[((start + q) * heads.queries + h) * heads.width + i] =
                        scores.iter().zip(low..).map(|(s, j)| s / sum * at(start + j, v, i)).sum();
                }
            }
            start += length;
        }
        for (cpu, format) in paths().filter(|(_, f)| *f != Format::Int8) {
            let from = operand(cpu, format, &values, width);
            let mut out = Rows::new(format, heads.queries * heads.width);
            out.reset(count);
            let (mut scratch, mut start) = (Scratch::default(), 0);
            for length in &lengths {
                cpu.attention(Attention { heads, reach, distances }, &from, (start, *length), &mut scratch, &mut out);
                start += length;
            }
            // Read through a product with the identity.
            let width = out.width();
            let identity: Vec<f32> = (0..width * width).map(|i| f32::from(u8::from(i / width == i % width))).collect();
            let mut read = Rows::new(Format::F32, width);
            read.reset(count);
            cpu.product(&out, &Linear::new(cpu, format, &identity, width, width, None), Out::Put(&mut read, Activation::None));
            // Scores are sums too, and their error is a factor of the weights.
            let off = if format == Format::F32 { 2e-5 } else { 0.02 + heads.width as f64 * 1e-3 };
            for (i, e) in expected.iter().enumerate() {
                let got = f64::from(read.row(i / width)[i % width]);
                prop_assert!((got - e).abs() < off, "{} {format:?} {got} {e}", cpu.name());
            }
        }
    }

    #[test]
    fn norms_match_f64(
        count in 1_usize..4, width in 2_usize..70, centred in any::<bool>(), shifted in any::<bool>(),
        keep in any::<bool>(), seed in any::<u64>(),
    ) {
        let values = noise(count * width, seed);
        let (gamma, beta) = (noise(width, seed ^ 3), noise(width, seed ^ 4));
        let norm = Norm { gamma, beta: shifted.then_some(beta), epsilon: 1e-5, centred };
        for (cpu, format) in paths() {
            let mut x = rows(&values, width);
            let mut out = Rows::new(format, width);
            out.reset(count);
            cpu.normalise(&mut x, &norm, keep, Some(&mut out));
            let identity: Vec<f32> = (0..width * width).map(|i| f32::from(u8::from(i / width == i % width))).collect();
            let mut read = Rows::new(Format::F32, width);
            read.reset(count);
            cpu.product(&out, &Linear::new(cpu, format, &identity, width, width, None), Out::Put(&mut read, Activation::None));
            for (i, row) in values.chunks(width).enumerate() {
                let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
                let mean = if centred { row.iter().sum::<f64>() / width as f64 } else { 0.0 };
                let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                for (j, value) in row.iter().enumerate() {
                    let shift = norm.beta.as_ref().map_or(0.0, |b| f64::from(b[j]));
                    let e = (value - mean) / (var + 1e-5).sqrt() * f64::from(norm.gamma[j]) + shift;
                    let kept = f64::from(x.row(i)[j]);
                    let wanted = if keep { *value } else { e };
                    prop_assert!((kept - wanted).abs() < 2e-4);
                    let off = match format { Format::F32 => 2e-4, Format::Int8 => 0.05, _ => 0.03 };
                    prop_assert!((f64::from(read.row(i)[j]) - e).abs() < off, "{} {format:?}", cpu.name());
                }
            }
        }
    }

    #[test]
    fn bfloat16_is_the_same_on_every_machine(values in prop::collection::vec(any::<f32>(), 1..40)) {
        for x in values.into_iter().filter(|x| x.is_finite()) {
            prop_assert_eq!(to_bf16(x).to_bits(), half::bf16::from_f32(x).to_f32().to_bits());
        }
    }
}
