//! Where a connection comes from, as far as limits are concerned; and how many come from there.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex},
};

/// Of an IPv6 address, the part that its user cannot choose.
const IPV6_NETWORK: u128 = !0 << 64;

/// An IPv4 address, or an IPv6 network of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK))
            }
            IpAddr::V6(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl Origin {
    /// Sixteen bytes, different for each origin.
    pub fn bytes(&self) -> [u8; 16] {
        match self.0 {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        }
    }
}

/// The connections that are open.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    taken: Mutex<HashMap<Origin, usize>>,
}

/// One connection; gives its place back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    origin: Origin,
}

impl Slots {
    /// `None` if there are `all_max`, or `origin_max` from there, already.
    pub fn take(self: &Arc<Self>, origin: Origin, all_max: usize, origin_max: usize) -> Option<Slot> {
        let mut taken = self.taken.lock().expect("no code panics under this lock");
        let all: usize = taken.values().sum();
        let count = taken.get(&origin).copied().unwrap_or_default();
        if all >= all_max || count >= origin_max {
            return None;
        }
        taken.insert(origin, count + 1);
        Some(Slot { slots: self.clone(), origin })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().expect("no code panics under this lock");
        if let Some(count) = taken.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.origin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(address: &str) -> Origin {
        address.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn neighbours_in_an_ipv6_network_are_one_origin() {
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
        assert_eq!(origin("::ffff:10.0.0.1"), origin("10.0.0.1"));
        assert_ne!(origin("10.0.0.2"), origin("10.0.0.1"));
        assert_eq!(origin("::1"), origin("127.0.0.1"));
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let slots = Arc::new(Slots::default());
        let take = |address| slots.take(origin(address), 3, 2);
        let first = take("10.0.0.1").unwrap();
        let second = take("10.0.0.1").unwrap();
        assert!(take("10.0.0.1").is_none());
        let third = take("10.0.0.2").unwrap();
        assert!(take("10.0.0.3").is_none());
        drop(first);
        assert!(take("10.0.0.1").is_some());
        drop((second, third));
        assert!(slots.taken.lock().unwrap().is_empty());
    }
}
