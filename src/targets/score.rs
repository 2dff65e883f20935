//! What a score is, for the targets that compute it here.

use crate::model::Metric;

/// Orders two scores.
pub(crate) fn best_first(metric: Metric, a: f32, b: f32) -> std::cmp::Ordering {
    match metric {
        Metric::Cosine | Metric::Dot => b.total_cmp(&a),
        Metric::Euclidean => a.total_cmp(&b),
    }
}

/// Sums in f64, so that this is the reference that other targets are compared with.
pub(crate) fn score(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    let sum = |f: fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum::<f64>();
    let result = match metric {
        Metric::Dot => sum(|a, b| a * b),
        Metric::Euclidean => sum(|a, b| (a - b) * (a - b)).sqrt(),
        Metric::Cosine => {
            let lengths = (sum(|a, _| a * a) * sum(|_, b| b * b)).sqrt();
            // A vector without direction is similar to nothing.
            if lengths == 0.0 { 0.0 } else { sum(|a, b| a * b) / lengths }
        }
    };
    #[expect(clippy::cast_possible_truncation, reason = "scores are f32")]
    let result = result as f32;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_what_the_metric_says() {
        assert_eq!(score(Metric::Dot, &[1.0, 2.0], &[3.0, 4.0]), 11.0);
        assert_eq!(score(Metric::Euclidean, &[0.0, 0.0], &[3.0, 4.0]), 5.0);
        assert_eq!(score(Metric::Cosine, &[2.0, 0.0], &[0.5, 0.0]), 1.0);
        assert_eq!(score(Metric::Cosine, &[2.0, 0.0], &[0.0, 0.0]), 0.0);
    }
}
