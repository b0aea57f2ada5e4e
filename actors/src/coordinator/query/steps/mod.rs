//! The work of each step, free of the actor: it runs as a task, or at once, and its outcome comes back as a message.
//! `core::WAY` says in which turn; where nothing is plugged in for a step, or nothing is to be done, it is done at once.
//!
//! | step | here | what it does |
//! |---|---|---|
//! | 1 admission | `admission` | a slot, by priority and organisation |
//! | 2 tables | `tables` | which tables the text touches, by the catalog |
//! | 3 decision | `decision` | asks a policy actor |
//! | 4 cost | `cost` | what the plan will read, against the principal's budget |
//! | 5 quota | `quota` | sets credits aside |
//! | 6 row filters | `planning` | the engine puts them above each scan; the time is the engine's word |
//! | 7 dialect | `dialect` | a hook |
//! | 8 snapshot | `snapshot` | a hook |
//! | 9 execution | `execution` | pulls the plan's rows, pushes them to the outlet |
//! | 10 healing | `healing` | a hook |
//! | 11 masks | `planning` | like row filters |
//! | 12 metering | `metering` | counts, and charges before rows leave |
//! | 13 audit | `audit` | what is written of it |

pub mod admission;
pub mod audit;
pub mod cost;
pub mod decision;
pub mod dialect;
pub mod execution;
pub mod healing;
pub mod metering;
pub mod planning;
pub mod quota;
pub mod snapshot;
pub mod tables;
