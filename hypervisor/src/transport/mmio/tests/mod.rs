//! The registers with a scripted driver and a device that reports its calls.

mod behaviour;
mod queues;

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use virtio_queue::QueueT;

use super::registers::interrupt;
use super::*;
use crate::virtio::Interrupt;
use crate::virtio::testing::{END, memory};

const INDIRECT: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const RING_RESET: u64 = 1 << VIRTIO_F_RING_RESET;

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Features(u64),
    Start {
        index: usize,
        rings: (u64, u64, u64),
        size: u16,
        positions: (u16, u16),
        event_idx: bool,
    },
    Stop(usize),
    Reset,
    Write(usize, Vec<u8>),
}

/// The state that the device shares with the test.
#[derive(Default)]
struct Shared {
    calls: [Option<Arc<dyn Interrupt>>; 2],
    config_changed: Option<Arc<dyn Interrupt>>,
    kicks: [Option<EventFd>; 2],
    config: [u8; 8],
    refuses: bool,
    loses: bool,
}

struct Probe {
    events: Sender<Event>,
    queues: [Option<Queue>; 2],
    shared: Arc<Mutex<Shared>>,
}

impl Device for Probe {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn features(&self) -> u64 {
        VERSION_1 | EVENT_IDX | INDIRECT
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64, 128]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let config = self.shared.lock().unwrap().config;
        for (byte, value) in data.iter_mut().zip(config.iter().skip(offset)) {
            *byte = *value;
        }
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.send(Event::Write(offset, data.to_vec()));
    }

    fn set_features(&mut self, features: u64) {
        self.send(Event::Features(features));
    }

    fn set_config_interrupt(&mut self, changed: Arc<dyn Interrupt>) {
        self.shared.lock().unwrap().config_changed = Some(changed);
    }

    fn start_queue(
        &mut self,
        index: usize,
        queue: Queue,
        _mem: Memory,
        kick: EventFd,
        call: Arc<dyn Interrupt>,
    ) -> Result<(), DeviceError> {
        let mut shared = self.shared.lock().unwrap();
        if shared.refuses {
            return Err(DeviceError::BadQueue(index));
        }
        self.send(Event::Start {
            index,
            rings: (queue.desc_table(), queue.avail_ring(), queue.used_ring()),
            size: queue.size(),
            positions: (queue.next_avail(), queue.next_used()),
            event_idx: queue.event_idx_enabled(),
        });
        self.queues[index] = Some(queue);
        shared.calls[index] = Some(call);
        shared.kicks[index] = Some(kick);
        Ok(())
    }

    fn stop_queue(&mut self, index: usize) -> Option<Queue> {
        let mut queue = self.queues[index].take()?;
        self.send(Event::Stop(index));
        queue.set_next_avail(queue.next_avail() + 3);
        queue.set_next_used(queue.next_used() + 2);
        let lost = self.shared.lock().unwrap().loses;
        (!lost).then_some(queue)
    }

    fn reset(&mut self) {
        self.send(Event::Reset);
    }
}

impl Probe {
    fn send(&self, event: Event) {
        self.events.send(event).unwrap();
    }
}

struct Fixture {
    mmio: Mmio,
    irq: EventFd,
    events: Receiver<Event>,
    shared: Arc<Mutex<Shared>>,
}

impl Fixture {
    fn new() -> Fixture {
        let irq = EventFd::new().unwrap();
        let (sender, events) = channel();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let device = Probe {
            events: sender,
            queues: [None, None],
            shared: Arc::clone(&shared),
        };
        let mmio = Mmio::new(Box::new(device), memory(), irq.try_clone().unwrap()).unwrap();
        Fixture {
            mmio,
            irq,
            events,
            shared,
        }
    }

    /// A device that has accepted and reported these features.
    fn with_features(features: u64) -> Fixture {
        let mut fixture = Fixture::new();
        fixture.offer(features);
        assert!(fixture.accepted());
        fixture.events();
        fixture
    }

    /// A device that has started and reported queue 1.
    fn started() -> Fixture {
        let mut fixture = Fixture::with_features(VERSION_1 | EVENT_IDX | RING_RESET);
        fixture.set_up(1, 32);
        fixture.put(registers::STATUS, 15);
        assert_eq!(fixture.events(), [start(32, (0, 0))]);
        fixture
    }

    fn get(&mut self, offset: u64) -> u32 {
        let mut word = [0xaa; 4];
        self.mmio.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn put(&mut self, offset: u64, value: u32) {
        self.mmio.write(offset, &value.to_le_bytes());
    }

    /// Sets the status step by step, up to FEATURES_OK.
    fn offer(&mut self, features: u64) {
        self.put(registers::STATUS, 0);
        self.put(registers::STATUS, 1);
        self.put(registers::STATUS, 3);
        for (select, half) in [(0, features), (1, features >> 32)] {
            self.put(registers::DRIVER_FEATURES_SEL, select);
            self.put(registers::DRIVER_FEATURES, half as u32);
        }
        self.put(registers::STATUS, 11);
    }

    fn accepted(&mut self) -> bool {
        self.get(registers::STATUS) == 11
    }

    fn set_up(&mut self, index: u32, size: u32) {
        self.put(registers::QUEUE_SEL, index);
        self.put(registers::QUEUE_NUM, size);
        self.put(registers::QUEUE_DESC_LOW, 0x1000);
        self.put(registers::QUEUE_DESC_HIGH, 0);
        self.put(registers::QUEUE_DRIVER_LOW, 0x2000);
        self.put(registers::QUEUE_DRIVER_HIGH, 1);
        self.put(registers::QUEUE_DEVICE_LOW, 0x3000);
        self.put(registers::QUEUE_DEVICE_HIGH, 2);
        self.put(registers::QUEUE_READY, 1);
    }

    fn events(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    fn interrupted(&self) -> bool {
        self.irq.read().is_ok()
    }

    fn call(&self, index: usize) -> Arc<dyn Interrupt> {
        self.shared.lock().unwrap().calls[index].clone().unwrap()
    }

    fn config_changed(&self) -> Arc<dyn Interrupt> {
        self.shared.lock().unwrap().config_changed.clone().unwrap()
    }
}

fn start(size: u16, positions: (u16, u16)) -> Event {
    Event::Start {
        index: 1,
        rings: (0x1000, 0x1_0000_2000, 0x2_0000_3000),
        size,
        positions,
        event_idx: true,
    }
}
