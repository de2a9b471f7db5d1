//! Locks that are used again after a panic: their data is valid after each step.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

/// Locks, even if a thread panicked while it held the lock.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    recover(mutex.lock())
}

/// Returns the result of a wait or of unwrapping a mutex, even after such a panic.
pub(crate) fn recover<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}
