//! The configurations that are explored.

use crate::setup::{Budget, Point, Setup};

const NONE: Budget =
    Budget { losses: 0, late: 0, cuts: 0, hangs: 0, kills: 0, restarts: 0, leaves: 0, drains: 0 };

/// Those that take seconds.
pub fn short() -> Vec<Setup> {
    vec![
        Setup::new("2 nodes q1, 3 losses", 2, 1, Budget { losses: 3, ..NONE }),
        Setup::new("2 nodes q1, 2 late", 2, 1, Budget { late: 2, ..NONE }),
        Setup::new("2 nodes q1, 1 loss, 1 late cold", 2, 1, Budget { losses: 1, late: 1, ..NONE }).cold(),
        Setup::new("2 nodes q1, hang, 1 loss", 2, 1, Budget { hangs: 1, losses: 1, ..NONE })
            .hanging(&[60, 130], Point::ALL),
        Setup::new("2 nodes q1, hang, hang", 2, 1, Budget { hangs: 2, ..NONE }),
        Setup::new("2 nodes q1, hang, cold", 2, 1, Budget { hangs: 1, ..NONE })
            .hanging(&[60, 130], Point::ALL)
            .cold(),
        Setup::new("2 nodes q1, kill, restart", 2, 1, Budget { kills: 1, restarts: 1, ..NONE })
            .dying(Point::ALL)
            .cold(),
        Setup::new(
            "2 nodes q1, kill, restart, loss",
            2,
            1,
            Budget { losses: 1, kills: 1, restarts: 1, ..NONE },
        ),
        Setup::new("2 nodes q1, leave, loss", 2, 1, Budget { losses: 1, leaves: 1, ..NONE }),
        Setup::new("2 nodes q1, drain, loss", 2, 1, Budget { losses: 1, drains: 1, ..NONE }),
        Setup::new("2 nodes q1, cut", 2, 1, Budget { cuts: 2, ..NONE }),
        Setup::new("2 nodes q2, 3 losses", 2, 2, Budget { losses: 3, ..NONE }),
        Setup::new("2 nodes q2, hang, loss", 2, 2, Budget { hangs: 1, losses: 1, ..NONE }),
        Setup::new(
            "2 nodes q2, kill, restart, loss",
            2,
            2,
            Budget { losses: 1, kills: 1, restarts: 1, ..NONE },
        ),
        Setup::new("2 nodes q2, cut, loss", 2, 2, Budget { cuts: 2, ..NONE }),
        Setup::new("3 nodes q1, 1 loss", 3, 1, Budget { losses: 1, ..NONE }),
        Setup::new("3 nodes q1, hang", 3, 1, Budget { hangs: 1, ..NONE }),
        Setup::new("3 nodes q1, kill, restart", 3, 1, Budget { kills: 1, restarts: 1, ..NONE }),
        Setup::new("3 nodes q2, 2 losses", 3, 2, Budget { losses: 2, ..NONE }),
        Setup::new("3 nodes q2, 1 loss cold", 3, 2, Budget { losses: 1, ..NONE }).cold(),
        Setup::new("3 nodes q2, hang", 3, 2, Budget { hangs: 1, ..NONE }).hanging(&[60, 130], Point::ALL),
        Setup::new("3 nodes q2, kill, restart", 3, 2, Budget { kills: 1, restarts: 1, ..NONE }),
        Setup::new("3 nodes q2, cut", 3, 2, Budget { cuts: 1, ..NONE }),
    ]
}

/// Those that take minutes.
pub fn long() -> Vec<Setup> {
    vec![
        Setup::new("L 2 nodes q1, 5 losses", 2, 1, Budget { losses: 5, ..NONE }),
        Setup::new("L 2 nodes q1, 2 losses 2 late", 2, 1, Budget { losses: 2, late: 2, ..NONE }),
        Setup::new("L 2 nodes q1, 2 losses cold", 2, 1, Budget { losses: 2, late: 1, ..NONE }).cold(),
        Setup::new("L 2 nodes q1, hang hang all points", 2, 1, Budget { hangs: 2, ..NONE })
            .hanging(&[60, 90, 130], Point::ALL),
        Setup::new(
            "L 2 nodes q1, hang kill restart",
            2,
            1,
            Budget { hangs: 1, kills: 1, restarts: 1, ..NONE },
        ),
        Setup::new("L 2 nodes q1, kill restart x2", 2, 1, Budget { kills: 2, restarts: 2, ..NONE }),
        Setup::new("L 2 nodes q1, leave loss hang", 2, 1, Budget { hangs: 1, losses: 1, leaves: 1, ..NONE }),
        Setup::new("L 2 nodes q2, hang hang all points", 2, 2, Budget { hangs: 2, ..NONE })
            .hanging(&[60, 90, 130], Point::ALL),
        Setup::new("L 2 nodes q2, hang 2 losses cold", 2, 2, Budget { hangs: 1, losses: 2, ..NONE }).cold(),
        Setup::new("L 3 nodes q1, hang hang", 3, 1, Budget { hangs: 2, ..NONE }),
        Setup::new("L 3 nodes q1, 4 losses", 3, 1, Budget { losses: 4, ..NONE }),
        Setup::new(
            "L 3 nodes q1, kill restart, 2 losses",
            3,
            1,
            Budget { kills: 1, losses: 2, restarts: 1, ..NONE },
        ),
        Setup::new("L 3 nodes q2, hang hang", 3, 2, Budget { hangs: 2, ..NONE }),
        Setup::new("L 3 nodes q2, 4 losses", 3, 2, Budget { losses: 4, ..NONE }),
        Setup::new("L 3 nodes q2, 3 losses cold", 3, 2, Budget { losses: 2, ..NONE }).cold(),
        Setup::new("L 3 nodes q2, hang, 2 losses", 3, 2, Budget { hangs: 1, losses: 2, ..NONE }),
        Setup::new("L 3 nodes q2, 2 cuts", 3, 2, Budget { cuts: 2, ..NONE }),
        Setup::new(
            "L 3 nodes q2, cut, kill, restart",
            3,
            2,
            Budget { cuts: 1, kills: 1, restarts: 1, ..NONE },
        ),
        Setup::new("L 3 nodes q2, hang cut", 3, 2, Budget { cuts: 1, hangs: 1, ..NONE }),
        Setup::new(
            "L 3 nodes q2, kill restart cold",
            3,
            2,
            Budget { kills: 1, restarts: 1, losses: 1, ..NONE },
        )
        .cold(),
    ]
}
