//! A shim started by hand, and the task API spoken to it: no containerd.
