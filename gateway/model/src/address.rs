//! Addresses of networks: ranges of IP addresses, and the hardware addresses of interfaces.
//!
//! Both are compared by what they mean, never by how they are spelt. What can't be read is a value that says why.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses: all that share the first `prefix` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCidrError {
    /// It isn't an address, a slash and a number of bits.
    #[error("{0:?} is no range of addresses: expected an address and a prefix, for example 10.20.0.0/24")]
    Form(String),
    /// It names an address inside the range.
    #[error("{text:?} names an address inside a range: the range is {range}")]
    Inside {
        /// What was written.
        text: String,
        /// The range that holds it.
        range: Cidr,
    },
}

impl Cidr {
    /// The first address.
    #[must_use]
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address; in version 4 the one that reaches everybody.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        with_host_bits(self.first, self.prefix, true)
    }

    /// Whether the address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && with_host_bits(address, self.prefix, false) == self.first
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// Whether an interface can have the address: it lies in the range, and isn't what names the range or reaches
    /// everybody in it. Ranges of two addresses and of one have neither.
    #[must_use]
    pub fn has_host(&self, address: IpAddr) -> bool {
        let bits = if self.first.is_ipv4() { 32 } else { 128 };
        let small = self.prefix.saturating_add(1) >= bits;
        let reserved = address == self.first || (address.is_ipv4() && address == self.last());
        self.contains(address) && (small || !reserved)
    }

    /// The number of leading bits that all of its addresses share.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The address in this range that has the place which `address` has in `from`; `None` when the two aren't equally large.
    #[must_use]
    pub fn counterpart(&self, from: &Self, address: IpAddr) -> Option<IpAddr> {
        if self.prefix != from.prefix || !from.contains(address) {
            return None;
        }
        match (self.first, with_host_bits(address, self.prefix, false), address) {
            (IpAddr::V4(own), IpAddr::V4(theirs), IpAddr::V4(address)) => {
                Some(IpAddr::V4(Ipv4Addr::from(u32::from(own) | (u32::from(address) ^ u32::from(theirs)))))
            }
            (IpAddr::V6(own), IpAddr::V6(theirs), IpAddr::V6(address)) => {
                Some(IpAddr::V6(Ipv6Addr::from(u128::from(own) | (u128::from(address) ^ u128::from(theirs)))))
            }
            _ => None,
        }
    }

    /// The addresses that interfaces can have, in their order.
    pub fn hosts(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let range = *self;
        let next = move |address: &IpAddr| match *address {
            IpAddr::V4(address) => u32::from(address).checked_add(1).map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
            IpAddr::V6(address) => u128::from(address).checked_add(1).map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
        };
        std::iter::successors(Some(self.first), next)
            .take_while(move |address| range.contains(*address))
            .filter(move |address| range.has_host(*address))
    }
}

/// The address with the bits beyond the prefix all set or all cleared.
fn with_host_bits(address: IpAddr, prefix: u8, set: bool) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            let bits = u32::from(address);
            IpAddr::V4(Ipv4Addr::from(if set { bits | host } else { bits & !host }))
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            let bits = u128::from(address);
            IpAddr::V6(Ipv6Addr::from(if set { bits | host } else { bits & !host }))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, ParseCidrError> {
        let wrong = || ParseCidrError::Form(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = bits.parse().map_err(|_| wrong())?;
        let canonical = prefix.to_string() == bits && prefix <= if address.is_ipv4() { 32 } else { 128 };
        if !canonical {
            return Err(wrong());
        }
        let range = Self { first: with_host_bits(address, prefix, false), prefix };
        if range.first == address { Ok(range) } else { Err(ParseCidrError::Inside { text: text.to_owned(), range }) }
    }
}

/// The hardware address of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

/// A text that can't be the hardware address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseMacError {
    /// It isn't six bytes.
    #[error("{0:?} is no hardware address: expected six bytes, for example 52:54:00:12:34:56")]
    Form(String),
    /// It names several interfaces, or none.
    #[error("{0:?} can't be the address of one interface: the first byte must be even, and not all bytes zero")]
    NotOne(String),
}

impl Mac {
    /// An address of the kind that anybody may give, with these bits.
    #[must_use]
    pub const fn local(bits: [u8; 5]) -> Self {
        let [a, b, c, d, e] = bits;
        Self([0x02, a, b, c, d, e])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let wrong = || ParseMacError::Form(text.to_owned());
        let parts: Vec<&str> = text.split(':').collect();
        let digits = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        if parts.len() != 6 || !parts.iter().all(digits) {
            return Err(wrong());
        }
        let mut bytes = [0; 6];
        for (byte, part) in bytes.iter_mut().zip(parts) {
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        let [first, ..] = bytes;
        if first % 2 == 1 || bytes == [0; 6] {
            return Err(ParseMacError::NotOne(text.to_owned()));
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect(text)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn ranges_know_what_lies_in_them() {
        let range = cidr("10.20.0.0/24");
        assert!(
            range.contains(ip("10.20.0.255")) && !range.contains(ip("10.20.1.0")) && !range.contains(ip("::a14:0"))
        );
        assert_eq!(range.last(), ip("10.20.0.255"));
        for (address, host) in [("10.20.0.1", true), ("10.20.0.0", false), ("10.20.0.255", false), ("10.21.0.1", false)]
        {
            assert_eq!(range.has_host(ip(address)), host, "{address}");
        }
        assert!(cidr("10.0.0.0/31").has_host(ip("10.0.0.0")) && cidr("10.0.0.7/32").has_host(ip("10.0.0.7")));
        assert!(
            cidr("fd00::/64").has_host(ip("fd00::ffff:ffff:ffff:ffff")) && !cidr("fd00::/64").has_host(ip("fd00::"))
        );
        assert!(cidr("0.0.0.0/0").contains(ip("255.255.255.255")) && cidr("::/0").contains(ip("ff::1")));
    }

    #[test]
    fn an_address_keeps_its_place_in_a_range_of_the_same_size() {
        let (home, away) = (cidr("10.20.0.0/24"), cidr("192.168.7.0/24"));
        assert_eq!(away.counterpart(&home, ip("10.20.0.15")), Some(ip("192.168.7.15")));
        assert_eq!(cidr("192.168.0.0/16").counterpart(&home, ip("10.20.0.15")), None, "another size");
        assert_eq!(away.counterpart(&home, ip("10.21.0.15")), None, "from elsewhere");
        let (v6, other) = (cidr("fd00:1::/64"), cidr("fd00:2::/64"));
        assert_eq!(other.counterpart(&v6, ip("fd00:1::abcd")), Some(ip("fd00:2::abcd")));
        assert_eq!(home.counterpart(&v6, ip("fd00:1::1")), None);
    }

    #[test]
    fn hosts_come_in_their_order_without_the_reserved_ones() {
        let hosts = |text: &str| cidr(text).hosts().map(|address| address.to_string()).collect::<Vec<_>>();
        assert_eq!(hosts("10.0.0.0/30"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(hosts("10.0.0.0/31"), ["10.0.0.0", "10.0.0.1"]);
        assert_eq!(hosts("255.255.255.255/32"), ["255.255.255.255"]);
        assert_eq!(cidr("fd00::/64").hosts().next(), Some(ip("fd00::1")));
    }

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        assert!(
            cidr("10.0.0.0/8").overlaps(&cidr("10.20.0.0/24")) && cidr("10.20.0.0/24").overlaps(&cidr("10.0.0.0/8"))
        );
        assert!(!cidr("10.20.0.0/24").overlaps(&cidr("10.20.1.0/24")));
        assert!(!cidr("0.0.0.0/0").overlaps(&cidr("::/0")));
    }

    #[test]
    fn what_is_no_range_says_why() {
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/08", "10.0.0.0/-1", "fd00::/129", "a/8"] {
            assert!(matches!(wrong.parse::<Cidr>(), Err(ParseCidrError::Form(_))), "{wrong:?}");
        }
        let inside = "10.20.0.7/24".parse::<Cidr>().expect_err("an address inside");
        assert!(inside.to_string().ends_with("the range is 10.20.0.0/24"), "{inside}");
    }

    #[test]
    fn hardware_addresses_are_of_one_interface() {
        let mac: Mac = "52:54:00:AB:cd:0f".parse().expect("sound");
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
        assert_eq!("52:54:00:ab:CD:0F".parse(), Ok(mac), "compared by what it means");
        assert_eq!(Mac::local([1, 2, 3, 4, 5]).to_string(), "02:01:02:03:04:05");
        for wrong in
            ["", "52:54:00:ab:cd", "52-54-00-ab-cd-0f", "52:54:00:ab:cd:0f:11", "52:54:0:ab:cd:0f", "+2:54:00:ab:cd:0f"]
        {
            assert!(matches!(wrong.parse::<Mac>(), Err(ParseMacError::Form(_))), "{wrong:?}");
        }
        for wrong in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert!(matches!(wrong.parse::<Mac>(), Err(ParseMacError::NotOne(_))), "{wrong:?}");
        }
    }
}
