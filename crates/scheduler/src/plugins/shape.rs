//! A score made of how much of something is used: a line of straight pieces (upstream `BuildBrokenLinearFunction`).

use crate::config::raw::ShapePoint;
use crate::framework::SCORE_MAX;

/// The score of the configuration's points is 0 to 10.
const SCALE: i64 = SCORE_MAX / 10;

/// Points, ascending by utilization.
#[derive(Clone, Debug)]
pub(super) struct Shape(Vec<(i64, i64)>);

impl Shape {
    pub(super) fn new(points: &[ShapePoint]) -> Self {
        Self(points.iter().map(|p| (i64::from(p.utilization), i64::from(p.score) * SCALE)).collect())
    }

    /// The score of so much used of so much.
    pub(super) fn of(&self, used: i64, all: i64) -> i64 {
        if all == 0 || used > all {
            return self.at(100);
        }
        self.at(i64::try_from(i128::from(used) * 100 / i128::from(all)).unwrap_or(100))
    }

    fn at(&self, utilization: i64) -> i64 {
        let points = &self.0;
        match points.iter().position(|(x, _)| utilization <= *x) {
            None => points.last().map_or(0, |(_, y)| *y),
            Some(0) => points[0].1,
            Some(at) => {
                let ((x0, y0), (x1, y1)) = (points[at - 1], points[at]);
                y0 + (y1 - y0) * (utilization - x0) / (x1 - x0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_straight_and_the_ends_stay() {
        let point = |utilization, score| ShapePoint { utilization, score };
        let shape = Shape::new(&[point(10, 0), point(50, 10), point(90, 5)]);
        for (used, score) in [(0, 0), (10, 0), (30, 50), (50, 100), (70, 75), (90, 50), (100, 50), (200, 50)] {
            assert_eq!(shape.of(used, 100), score, "{used}");
        }
        assert_eq!(shape.of(1, 0), 50);
    }
}
