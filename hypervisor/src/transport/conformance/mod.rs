//! One test suite for every device on every transport.
//!
//! ```text
//!   cases ──▶ Rig ──▶ Fixture: makes the device, knows one valid request
//!              │
//!              └──▶ Driver: MmioDriver ───── registers ──▶ Mmio ──────┐
//!                           VhostUserDriver ── socket ──▶ VhostUser ──┴▶ Watched ▶ Device
//! ```
//!
//! The driver is a script and needs no kernel. Its memory is a memfd with a hole in the guest's
//! addresses. A panic of a device's thread is detected when its queue is not returned, a lost
//! chain by a deadline, and a busy loop by its processor time.
//!
//! A new device needs a fixture and a line in the list below.

mod cases;
mod driver;
mod fixtures;
mod guest;
mod mmio;
mod rig;
mod shape;
mod vhost_user;
mod watch;

/// Makes a test of each case, for a device and a transport.
macro_rules! cases {
    ($fixture:ty, $driver:ty: $($module:ident { $($case:ident),* $(,)? })*) => {
        $($(
            #[test]
            fn $case() {
                crate::transport::conformance::cases::$module::$case::<$fixture, $driver>();
            }
        )*)*
    };
}

macro_rules! suite {
    ($fixture:ty, $driver:ty) => {
        cases! {
            $fixture, $driver:
            negotiation {
                any_features_do,
                no_other_features_do,
                config_space_is_readable,
                config_space_stands_writes,
                config_changes_are_signalled,
            }
            layout {
                chains_split_anywhere,
                indirect_chains_split_anywhere,
                rings_wrap,
            }
            lifecycle {
                requests_wait_for_driver_ok,
                reset_in_the_middle_of_requests,
                queue_reset,
                pause_keeps_requests,
            }
            interrupts {
                interrupts_can_be_suppressed,
                event_index_selects_the_interrupt,
                kicks_only_when_asked_for,
            }
            hostile {
                bad_descriptors,
                broken_rings,
                heads_offered_again,
            }
            random {
                malformed_rings,
            }
        }

        #[test]
        fn device_rests() {
            let name = concat!(module_path!(), "::device_rests");
            crate::transport::conformance::cases::idle::device_rests::<$fixture, $driver>(name);
        }
    };
}

macro_rules! devices {
    ($($device:ident: $fixture:ident),* $(,)?) => {
        $(
            mod $device {
                use super::fixtures::$fixture;

                mod mmio {
                    suite!(super::$fixture, super::super::mmio::MmioDriver);
                }

                mod vhost_user {
                    suite!(super::$fixture, super::super::vhost_user::VhostUserDriver);
                }
            }
        )*
    };
}

devices! {
    balloon: Balloon,
    block: Block,
    fs: Fs,
    mem: Mem,
    net: Net,
    net_control: NetControl,
    rng: Rng,
    vsock: Vsock,
}
