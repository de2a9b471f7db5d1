//! What the driver reads of the device, number by number (virtio 1.2 §5.1.3, §5.1.4), and what
//! follows from the features that it takes.

use super::*;

/// INDIRECT_DESC, EVENT_IDX, VERSION_1.
const RING: u64 = 1 << 28 | 1 << 29 | 1 << 32;
/// CSUM, GUEST_CSUM, GUEST_TSO4 to GUEST_UFO, HOST_TSO4 to HOST_UFO.
const TAP: u64 = 1 | 1 << 1 | 0xf << 7 | 0xf << 11;
/// GUEST_USO4, GUEST_USO6, HOST_USO.
const USO: u64 = 1 << 54 | 1 << 55 | 1 << 56;

fn device(pairs: usize, mtu: Option<u16>) -> Net {
    let (_, taps) = Link::new(pairs);
    let options = NetOptions { mac: MAC, mtu };
    Net::new(taps, options).unwrap()
}

#[test]
fn feature_bits() {
    require!(root());
    // MAC, MRG_RXBUF, STATUS; MTU; CTRL_VQ, MQ.
    let own = 1 << 5 | 1 << 15 | 1 << 16;
    for (pairs, mtu, more) in [
        (1, None, 0),
        (1, Some(1400), 1 << 3),
        (2, None, 1 << 17 | 1 << 22),
    ] {
        let offered = device(pairs, mtu).features();
        // Linux before 6.2 cannot segment UDP.
        assert!([0, USO].contains(&(offered & USO)), "{offered:#x}");
        assert_eq!(offered & !USO, RING | TAP | own | more);
    }
    assert_eq!(LONG_FRAMES, 1 << 7 | 1 << 8 | 1 << 10 | 1 << 54 | 1 << 55);
}

#[test]
fn configuration_field_by_field() {
    require!(root());
    let read = |device: Net| {
        let mut config = [0xee; 14];
        device.read_config(0, &mut config);
        config
    };
    // The address; the status: the link is up; pairs; the MTU; no more.
    let one = read(device(1, None));
    assert_eq!(one, [2, 0, 0, 0, 0, 7, 1, 0, 0, 0, 0, 0, 0, 0]);
    let two = read(device(2, Some(0x1234)));
    assert_eq!(two, [2, 0, 0, 0, 0, 7, 1, 0, 2, 0, 0x34, 0x12, 0, 0]);
}

#[test]
fn frames_are_as_long_as_the_features_allow() {
    require!(root());
    for (mtu, longest) in [(None, 12 + 18 + 1500), (Some(9000), 12 + 18 + 9000)] {
        let mut device = device(1, mtu);
        for bit in 0..64 {
            device.set_features(1 << bit);
            let long = [7, 8, 10, 54, 55].contains(&bit);
            let wanted = if long { 65562 } else { longest };
            assert_eq!(device.shape().longest, wanted, "{bit}");
            assert_eq!(device.shape().mergeable, bit == 15, "{bit}");
        }
    }
}

#[test]
fn queues_have_their_roles_by_the_number_of_pairs() {
    require!(root());
    let roles = |device: &Net| {
        let role = |index| match device.role(index) {
            Some(QueueRole::Data(pair, side)) => Some((pair, side)),
            Some(QueueRole::Control) => Some((99, 0)),
            None => None,
        };
        (0..7).map(role).collect::<Vec<_>>()
    };
    let control = Some((99, 0));
    let mut many = device(2, None);
    let [zero, one] = [Some((0, 0)), Some((0, 1))];
    assert_eq!(roles(&many), [zero, one, control, None, None, None, None]);
    many.set_features(1 << 22);
    let [two, three] = [Some((1, 0)), Some((1, 1))];
    assert_eq!(roles(&many), [zero, one, two, three, control, None, None]);
    let mut single = device(1, None);
    for features in [0, 1 << 22] {
        single.set_features(features);
        assert_eq!(roles(&single), [zero, one, None, None, None, None, None]);
    }
}

#[test]
fn options_have_bounds() {
    require!(root());
    let refused = |count: usize, mac: [u8; 6], mtu| {
        let taps = match count {
            0 => Vec::new(),
            17 => (0..17).map(|_| File::open("/dev/null").unwrap()).collect(),
            _ => Link::new(count).1,
        };
        Net::new(taps, NetOptions { mac, mtu }).err()
    };
    assert!(refused(1, MAC, Some(68)).is_none());
    assert!(refused(16, MAC, None).is_none());
    assert!(matches!(refused(0, MAC, None), Some(NetError::Taps(0))));
    assert!(matches!(refused(17, MAC, None), Some(NetError::Taps(17))));
    let low = refused(1, MAC, Some(67));
    assert!(matches!(low, Some(NetError::Mtu(67))));
    let group = refused(1, [0xff; 6], None);
    assert!(matches!(group, Some(NetError::Mac(mac)) if mac == [0xff; 6]));
    assert!(refused(1, [0xfe; 6], None).is_none());
    // Taps of two interfaces.
    let mixed = [Link::new(2).1, {
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        vec![link::tap(flags | libc::IFF_MULTI_QUEUE)]
    }];
    let options = NetOptions {
        mac: MAC,
        mtu: None,
    };
    let mixed = Net::new(mixed.into_iter().flatten().collect(), options);
    assert!(matches!(mixed.err(), Some(NetError::Mixed)));
}
