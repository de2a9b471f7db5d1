//! The harness of the end-to-end tests.
//!
//! Every test gets its own [`bed::Bed`]: a private containerd, a private state directory of
//! rust-kata, and a private containerd namespace. In it a [`scene::Scene`] drives one runtime
//! through `ctr`; [`oracle::compare`] plays the same scene under runc and under rust-kata and
//! compares the observations. When a bed ends, [`leak`] checks that nothing is left: remains
//! fail the test, and so does a missing mount of the machine. [`mounts`] makes all mounts
//! shared, as systemd does.
//!
//! ```text
//! test ── Bed ── containerd ── shim under test ── VM
//!          ├── events: `ctr events`, in the order containerd published them
//!          └── Scene ── run::Running (pipes) or pty::Terminal (a real pty)
//! ```
//!
//! [`task::Shim`] needs no containerd: it starts a shim by hand and uses the task API directly,
//! with the exact gRPC codes.
//!
//! The harness panics on anything unexpected, as a test should.
#![deny(missing_docs)]

pub use test_support::{Reason, require};

pub mod bed;
pub mod capture;
pub mod console;
pub mod cut;
pub mod dice;
pub mod dist;
pub mod events;
pub mod guest;
pub mod hostile;
pub mod image;
pub mod images;
pub mod initrd;
pub mod layout;
pub mod leak;
pub mod mounts;
pub mod oracle;
pub mod pods;
pub mod process;
pub mod pty;
pub mod registry;
pub mod run;
pub mod scene;
pub mod spec;
pub mod table;
pub mod task;
pub mod trace;
