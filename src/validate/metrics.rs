//! The measures of retrieval, with the sources of their formulas.

use std::collections::BTreeSet;

/// recall@k: the share of `wanted` that is among the first `k` of `found`, `wanted` being at most `k` counted.
///
/// |found top-k ∩ wanted| / min(k, |wanted|), after Manning, Raghavan and Schütze, *Introduction to Information
/// Retrieval*, section 8.4; the divisor is capped at k so that a perfect result is 1 also when more than k are
/// wanted. Nothing wanted is found in full: 1.
pub fn recall<T: Ord>(found: &[T], wanted: &BTreeSet<T>, k: usize) -> f64 {
    let possible = wanted.len().min(k);
    if possible == 0 {
        return 1.0;
    }
    // A set, so that an answer that repeats an item is not paid twice.
    let hits = found.iter().take(k).filter(|f| wanted.contains(*f)).collect::<BTreeSet<_>>().len();
    hits as f64 / possible as f64
}

/// Reciprocal rank: 1 / rank of the first wanted item, 0 when there is none.
/// Voorhees, *The TREC-8 Question Answering Track Report*, 1999.
pub fn reciprocal_rank<T: Ord>(found: &[T], wanted: &BTreeSet<T>) -> f64 {
    found.iter().position(|f| wanted.contains(f)).map_or(0.0, |rank| 1.0 / (rank + 1) as f64)
}

/// nDCG@k of the grades of the found items in their order, against all grades that could be found.
///
/// DCG = Σ (2^grade − 1) / log2(rank + 1), ranks from 1, with the gain of Burges et al., *Learning to Rank using
/// Gradient Descent*, 2005; divided by the DCG of the best order (Järvelin and Kekäläinen, *Cumulated gain-based
/// evaluation of IR techniques*, 2002). `None` when no grade is above 0.
pub fn ndcg(found: &[f64], possible: &[f64], k: usize) -> Option<f64> {
    let dcg = |grades: &[f64]| -> f64 {
        grades.iter().take(k).enumerate().map(|(i, g)| (g.exp2() - 1.0) / (i as f64 + 2.0).log2()).sum()
    };
    let mut best = possible.to_vec();
    best.sort_by(|a, b| b.total_cmp(a));
    let ideal = dcg(&best);
    (ideal > 0.0).then(|| dcg(found) / ideal)
}

/// Arithmetic mean; 0 for nothing.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The `p`-th percentile (0 to 100) with linear interpolation between the closest ranks: definition 7 of Hyndman
/// and Fan, *Sample Quantiles in Statistical Packages*, 1996, which NumPy and R use unasked. 0 for nothing.
pub fn percentile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = p.clamp(0.0, 100.0) / 100.0 * last as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

/// Median: the 50th percentile.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn worked_examples() {
        let wanted = BTreeSet::from(["a", "b", "c"]);
        assert_eq!(recall(&["a", "x", "b", "c"], &wanted, 3), 2.0 / 3.0);
        assert_eq!(recall(&["a", "b"], &wanted, 2), 1.0);
        assert_eq!(recall(&["a", "a", "a"], &wanted, 3), 1.0 / 3.0);
        assert_eq!(reciprocal_rank(&["x", "b"], &wanted), 0.5);
        assert_eq!(reciprocal_rank(&["x"], &wanted), 0.0);
        // Grades 3, 2, 3, 0, 1, 2 of the usual textbook example, with the exponential gain.
        let grades = [3.0, 2.0, 3.0, 0.0, 1.0, 2.0];
        assert!((ndcg(&grades, &grades, 6).unwrap() - 0.948_810_748).abs() < 1e-6);
        assert_eq!(ndcg(&[0.0], &[0.0], 3), None);
        assert_eq!(percentile(&[1.0, 2.0, 3.0, 4.0], 50.0), 2.5);
        assert_eq!(percentile(&[10.0, 20.0], 5.0), 10.5);
        assert_eq!(percentile(&[], 50.0), 0.0);
    }

    fn naive_ndcg(found: &[f64], possible: &[f64], k: usize) -> f64 {
        fn dcg(grades: &[f64], k: usize) -> f64 {
            let mut sum = 0.0;
            for rank in 1..=k.min(grades.len()) {
                sum += (2f64.powf(grades[rank - 1]) - 1.0) / ((rank as f64 + 1.0).ln() / 2f64.ln());
            }
            sum
        }
        let mut best = possible.to_vec();
        best.sort_by(|a, b| b.partial_cmp(a).unwrap());
        dcg(found, k) / dcg(&best, k)
    }

    proptest! {
        #[test]
        fn recall_is_the_naive_count(found in proptest::collection::vec(0u8..20, 0..15), wanted in proptest::collection::btree_set(0u8..20, 1..10), k in 1usize..12) {
            let mut hits = 0;
            for w in &wanted {
                for (i, f) in found.iter().enumerate() {
                    if i < k && f == w {
                        hits += 1;
                        break;
                    }
                }
            }
            prop_assert_eq!(recall(&found, &wanted, k), hits as f64 / wanted.len().min(k) as f64);
        }

        #[test]
        fn ndcg_is_the_naive_sum_and_best_order_is_one(grades in proptest::collection::vec(0u8..5, 1..12), k in 1usize..12) {
            let mut grades: Vec<f64> = grades.into_iter().map(f64::from).collect();
            grades.push(1.0);
            let value = ndcg(&grades, &grades, k).unwrap();
            prop_assert!((value - naive_ndcg(&grades, &grades, k)).abs() < 1e-9);
            prop_assert!((0.0..=1.0 + 1e-9).contains(&value));
            grades.sort_by(|a, b| b.total_cmp(a));
            prop_assert!((ndcg(&grades, &grades, k).unwrap() - 1.0).abs() < 1e-9);
        }

        #[test]
        fn reciprocal_rank_is_the_naive_loop(found in proptest::collection::vec(0u8..20, 0..15), wanted in proptest::collection::btree_set(0u8..20, 0..5)) {
            let mut naive = 0.0;
            for i in (0..found.len()).rev() {
                if wanted.contains(&found[i]) {
                    naive = 1.0 / (i as f64 + 1.0);
                }
            }
            prop_assert_eq!(reciprocal_rank(&found, &wanted), naive);
        }

        #[test]
        fn percentiles_grow_and_stay_inside(mut values in proptest::collection::vec(-1e3f64..1e3, 1..30), p in 0f64..100.0, q in 0f64..100.0) {
            let (low, high) = (p.min(q), p.max(q));
            prop_assert!(percentile(&values, low) <= percentile(&values, high) + 1e-9);
            values.sort_by(f64::total_cmp);
            prop_assert_eq!(percentile(&values, 0.0), values[0]);
            prop_assert_eq!(percentile(&values, 100.0), values[values.len() - 1]);
            let n = values.len();
            let naive = if n % 2 == 1 { values[n / 2] } else { (values[n / 2 - 1] + values[n / 2]) / 2.0 };
            prop_assert!((median(&values) - naive).abs() < 1e-9);
        }
    }
}
