//! Points in time, as text and as numbers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// RFC 3339, in UTC, to the nanosecond.
pub fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_nanos(at).to_string()
}

/// Nanoseconds since the epoch, as in the protocols.
pub fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The inverse of [`nanos`].
pub fn from_nanos(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_in_time_are_kept_to_the_nanosecond() {
        for nanos_since in [
            0,
            1,
            999_999_999,
            1_000_000_000,
            1_700_000_000_123_456_789,
            u64::MAX,
        ] {
            assert_eq!(nanos(from_nanos(nanos_since)), nanos_since);
        }
        assert_eq!(
            rfc3339(from_nanos(1_000_000_001)),
            "1970-01-01T00:00:01.000000001Z"
        );
        // Times before the epoch give 0, and times beyond 64 bits the largest value.
        assert_eq!(nanos(UNIX_EPOCH - Duration::from_secs(1)), 0);
        let far = UNIX_EPOCH + Duration::from_secs(u64::MAX / 1_000_000_000 + 1);
        assert_eq!(nanos(far), u64::MAX);
    }
}
