//! Virtio devices, free of any transport.
