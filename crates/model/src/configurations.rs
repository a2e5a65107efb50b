//! The configurations that are explored.

use crate::setup::{Budget, Point, Setup};

const NO: Budget =
    Budget { losses: 0, late: 0, cuts: 0, hangs: 0, kills: 0, restarts: 0, leaves: 0, drains: 0 };

/// When the second of two nodes starts after the first: in each phase of the interval, while the first listens, and
/// after it has formed a view of its own.
const TWO_STARTS: &[&[u64]] = &[
    &[0, 0],
    &[0, 3],
    &[0, 12],
    &[0, 22],
    &[0, 47],
    &[0, 74],
    &[0, 90],
    &[0, 98],
    &[0, 99],
    &[0, 100],
    &[0, 101],
    &[0, 103],
    &[0, 124],
    &[0, 164],
    &[47, 0],
    &[98, 0],
    &[101, 0],
    &[164, 0],
];

/// The same for three.
const THREE_STARTS: &[&[u64]] = &[
    &[0, 0, 0],
    &[0, 8, 17],
    &[0, 51, 98],
    &[0, 99, 101],
    &[98, 0, 103],
    &[101, 99, 0],
    &[0, 164, 206],
    &[206, 103, 0],
    &[0, 0, 300],
    &[300, 0, 0],
];

/// Those that take seconds.
pub fn short() -> Vec<Setup> {
    vec![
        Setup::new("2 q1: 18 starts, 1 loss", 2, 1, Budget { losses: 1, ..NO }).cold().starting(TWO_STARTS),
        Setup::new("2 q1: start, loss, late", 2, 1, Budget { losses: 1, late: 1, ..NO }).cold(),
        Setup::new("2 q1: start, hang anywhere", 2, 1, Budget { hangs: 1, ..NO })
            .cold()
            .hanging(&[60, 130], Point::ALL),
        Setup::new("2 q1: start, kill, restart", 2, 1, Budget { kills: 1, restarts: 1, ..NO })
            .cold()
            .dying(Point::ALL),
        Setup::new("2 q1: 4 losses", 2, 1, Budget { losses: 4, ..NO }),
        Setup::new("2 q1: 2 losses, late", 2, 1, Budget { losses: 2, late: 1, ..NO }),
        Setup::new("2 q1: loss, hang anywhere", 2, 1, Budget { losses: 1, hangs: 1, ..NO })
            .hanging(&[60, 130], Point::ALL),
        Setup::new("2 q1: hang, hang", 2, 1, Budget { hangs: 2, ..NO }),
        Setup::new("2 q1: loss, kill, restart", 2, 1, Budget { losses: 1, kills: 1, restarts: 1, ..NO }),
        Setup::new("2 q1: 2 losses, leave", 2, 1, Budget { losses: 2, leaves: 1, ..NO }),
        Setup::new("2 q1: hang, leave", 2, 1, Budget { hangs: 1, leaves: 1, ..NO }),
        Setup::new("2 q1: loss, late, drain", 2, 1, Budget { losses: 1, late: 1, drains: 1, ..NO }),
        Setup::new("2 q1: cut, cut", 2, 1, Budget { cuts: 2, ..NO }),
        Setup::new("2 q2: 4 losses", 2, 2, Budget { losses: 4, ..NO }),
        Setup::new("2 q2: loss, hang", 2, 2, Budget { losses: 1, hangs: 1, ..NO }),
        Setup::new("2 q2: loss, kill, restart", 2, 2, Budget { losses: 1, kills: 1, restarts: 1, ..NO }),
        Setup::new("2 q2: cut, cut", 2, 2, Budget { cuts: 2, ..NO }),
        Setup::new("3 q1: 10 starts, 1 loss", 3, 1, Budget { losses: 1, ..NO }).cold().starting(THREE_STARTS),
        Setup::new("3 q1: 3 losses", 3, 1, Budget { losses: 3, ..NO }),
        Setup::new("3 q1: hang", 3, 1, Budget { hangs: 1, ..NO }),
        Setup::new("3 q1: kill, restart", 3, 1, Budget { kills: 1, restarts: 1, ..NO }),
        Setup::new("3 q1: loss, drain", 3, 1, Budget { losses: 1, drains: 1, ..NO }),
        Setup::new("3 q2: 10 starts, 1 loss", 3, 2, Budget { losses: 1, ..NO }).cold().starting(THREE_STARTS),
        Setup::new("3 q2: 3 losses", 3, 2, Budget { losses: 3, ..NO }),
        Setup::new("3 q2: hang anywhere", 3, 2, Budget { hangs: 1, ..NO }).hanging(&[60, 130], Point::ALL),
        Setup::new("3 q2: loss, hang", 3, 2, Budget { losses: 1, hangs: 1, ..NO }),
        Setup::new("3 q2: kill, restart", 3, 2, Budget { kills: 1, restarts: 1, ..NO }),
        Setup::new("3 q2: cut", 3, 2, Budget { cuts: 1, ..NO }),
        Setup::new("3 q2: leave, loss", 3, 2, Budget { losses: 1, leaves: 1, ..NO }),
    ]
}

/// Those that take minutes.
pub fn long() -> Vec<Setup> {
    vec![
        Setup::new("2 q1: 18 starts, 2 losses, late", 2, 1, Budget { losses: 2, late: 1, ..NO })
            .cold()
            .starting(TWO_STARTS),
        Setup::new("2 q1: 18 starts, hang", 2, 1, Budget { hangs: 1, ..NO }).cold().starting(TWO_STARTS),
        Setup::new("2 q1: 18 starts, kill, restart", 2, 1, Budget { kills: 1, restarts: 1, ..NO })
            .cold()
            .starting(TWO_STARTS),
        Setup::new("2 q1: 6 losses", 2, 1, Budget { losses: 6, ..NO }),
        Setup::new("2 q1: T/8, 4 losses", 2, 1, Budget { losses: 4, ..NO }).timers(200, 25),
        Setup::new("2 q1: T/3, hang, loss", 2, 1, Budget { losses: 1, hangs: 1, ..NO })
            .timers(60, 20)
            .hanging(&[35, 80], Point::PULSE),
        Setup::new("2 q1: 3 losses, 2 late", 2, 1, Budget { losses: 3, late: 2, ..NO }),
        Setup::new("2 q1: hang, hang anywhere", 2, 1, Budget { hangs: 2, ..NO })
            .hanging(&[60, 90, 130], Point::ALL),
        Setup::new("2 q1: loss, hang, hang", 2, 1, Budget { losses: 1, hangs: 2, ..NO }),
        Setup::new("2 q1: hang, kill, restart", 2, 1, Budget { hangs: 1, kills: 1, restarts: 1, ..NO }),
        Setup::new("2 q1: 2 kills, 2 restarts", 2, 1, Budget { kills: 2, restarts: 2, ..NO }),
        Setup::new("2 q1: loss, hang, leave", 2, 1, Budget { losses: 1, hangs: 1, leaves: 1, ..NO }),
        Setup::new("2 q2: hang, hang anywhere", 2, 2, Budget { hangs: 2, ..NO })
            .hanging(&[60, 90, 130], Point::ALL),
        Setup::new("2 q2: start, 2 losses, hang", 2, 2, Budget { losses: 2, hangs: 1, ..NO }).cold(),
        Setup::new("2 q2: cut, cut, loss", 2, 2, Budget { cuts: 2, losses: 1, ..NO }),
        Setup::new("3 q1: 5 losses", 3, 1, Budget { losses: 5, ..NO }),
        Setup::new("3 q1: 2 losses, late", 3, 1, Budget { losses: 2, late: 1, ..NO }),
        Setup::new("3 q1: hang, hang", 3, 1, Budget { hangs: 2, ..NO }),
        Setup::new("3 q1: 2 losses, kill, restart", 3, 1, Budget { losses: 2, kills: 1, restarts: 1, ..NO }),
        Setup::new("3 q1: 10 starts, kill, restart", 3, 1, Budget { kills: 1, restarts: 1, ..NO })
            .cold()
            .starting(THREE_STARTS),
        Setup::new("3 q2: 10 starts, 2 losses", 3, 2, Budget { losses: 2, ..NO })
            .cold()
            .starting(THREE_STARTS),
        Setup::new("3 q2: 10 starts, hang", 3, 2, Budget { hangs: 1, ..NO }).cold().starting(THREE_STARTS),
        Setup::new(
            "3 q2: start, loss, kill, restart",
            3,
            2,
            Budget { losses: 1, kills: 1, restarts: 1, ..NO },
        )
        .cold(),
        Setup::new("3 q2: 5 losses", 3, 2, Budget { losses: 5, ..NO }),
        Setup::new("3 q2: T/8, 3 losses", 3, 2, Budget { losses: 3, ..NO }).timers(200, 25),
        Setup::new("3 q2: 2 losses, hang", 3, 2, Budget { losses: 2, hangs: 1, ..NO }),
        Setup::new("3 q2: hang, hang", 3, 2, Budget { hangs: 2, ..NO }),
        Setup::new("3 q2: start, views lost and late", 3, 2, Budget { losses: 4, late: 2, ..NO })
            .cold()
            .only_views(),
        Setup::new(
            "3 q1: views lost, kill, restart",
            3,
            1,
            Budget { losses: 3, kills: 1, restarts: 1, ..NO },
        )
        .only_views(),
        Setup::new("3 q2: cut, hang", 3, 2, Budget { cuts: 1, hangs: 1, ..NO }),
        Setup::new("3 q2: cut, kill, restart", 3, 2, Budget { cuts: 1, kills: 1, restarts: 1, ..NO }),
        Setup::new("3 q2: cut, cut", 3, 2, Budget { cuts: 2, ..NO }),
    ]
}
