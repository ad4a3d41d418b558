//! Medians and paired ratios.

/// The median; `None` when there is nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// The median of `a[i] / b[i]`: what drifts slowly on the machine hits both of a pair and cancels out.
///
/// Rounds in which either is missing or the divisor is 0 do not count.
pub(crate) fn paired_ratio(a: &[Option<f64>], b: &[Option<f64>]) -> Option<f64> {
    median(a.iter().zip(b).filter_map(|(a, b)| match (a, b) {
        (Some(a), Some(b)) if *b > 0.0 => Some(a / b),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        // The ratio of the medians would be 20 / 10.
        let a = [Some(10.0), Some(20.0), Some(90.0), None];
        let b = [Some(10.0), Some(5.0), Some(30.0), Some(1.0)];
        assert_eq!(paired_ratio(&a, &b), Some(3.0));
        assert_eq!(paired_ratio(&a, &[Some(0.0)]), None);
    }
}
