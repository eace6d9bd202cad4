//! Addresses for machines on bridges: as much of DHCP (RFC 2131, 2132) as gives a machine the one address that is its own.
//!
//! Without I/O. Offsets in a message: 0 direction, 1 kind of hardware, 2 its length, 4 the client's number, 10 flags, 12
//! the client's address, 16 the address for it, 28 its hardware address, 236 a magic number, 240 options.

use std::net::Ipv4Addr;

use lifeboat_model::Mac;

const HEAD: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Clients may rely on messages of that length, padded.
const LENGTH_MIN: usize = 300;
/// A machine asks again after half of it; one whose gateway is away keeps its address so long.
const LEASE_SECONDS: u32 = 7 * 24 * 3600;

const PAD: u8 = 0;
const MASK: u8 = 1;
const ROUTER: u8 = 3;
const WANTED: u8 = 50;
const LEASE: u8 = 51;
const KIND: u8 = 53;
const SERVER: u8 = 54;
const END: u8 = 255;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACKNOWLEDGED: u8 = 5;
const DENIED: u8 = 6;

/// What a machine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    pub(super) mask: Ipv4Addr,
    pub(super) router: Option<Ipv4Addr>,
    /// Who gives it.
    pub(super) server: Ipv4Addr,
}

/// A question for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) mac: Mac,
    kind: u8,
    number: [u8; 4],
    flags: [u8; 2],
    /// The address that it has already.
    has: Ipv4Addr,
    wants: Option<Ipv4Addr>,
    /// Whose offer it takes.
    server: Option<Ipv4Addr>,
    hardware: [u8; 16],
}

impl Question {
    /// Reads a message; nothing when it is none that wants an answer.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let (head, mut options) = message.split_at_checked(HEAD)?;
        let array = |from: usize| -> Option<[u8; 4]> { head.get(from..from + 4)?.try_into().ok() };
        // From a client, over Ethernet.
        if head.get(..3)? != [1, 1, 6] || array(236)? != MAGIC {
            return None;
        }
        let hardware: [u8; 16] = head.get(28..44)?.try_into().ok()?;
        let [a, b, c, d, e, f, ..] = hardware;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}").parse().ok()?;
        let (mut kind, mut wants, mut server) = (None, None, None);
        while let [code, rest @ ..] = options {
            match *code {
                PAD => options = rest,
                END => break,
                code => {
                    let (length, rest) = rest.split_first()?;
                    let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                    let address = || <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
                    match code {
                        KIND => kind = value.first().copied(),
                        WANTED => wants = address(),
                        SERVER => server = address(),
                        _ => {}
                    }
                    options = rest;
                }
            }
        }
        let kind = kind.filter(|kind| matches!(*kind, DISCOVER | REQUEST))?;
        let flags = head.get(10..12)?.try_into().ok()?;
        Some(Self { mac, kind, number: array(4)?, flags, has: array(12)?.into(), wants, server, hardware })
    }

    /// The answer and where to send it; nothing when it takes somebody else's offer.
    pub(super) fn answer(&self, lease: &Lease) -> Option<(Vec<u8>, Ipv4Addr)> {
        if self.server.is_some_and(|server| server != lease.server) {
            return None;
        }
        let has = Some(self.has).filter(|has| !has.is_unspecified());
        let kind = match (self.kind, self.wants.or(has)) {
            (DISCOVER, _) => OFFER,
            (_, Some(wanted)) if wanted == lease.address => ACKNOWLEDGED,
            _ => DENIED,
        };
        let granted = kind != DENIED;
        let mut answer = vec![2, 1, 6, 0];
        answer.extend(self.number);
        answer.extend([0, 0]);
        answer.extend(self.flags);
        answer.extend(if granted { self.has } else { Ipv4Addr::UNSPECIFIED }.octets());
        answer.extend(if granted { lease.address } else { Ipv4Addr::UNSPECIFIED }.octets());
        answer.extend([0; 8]);
        answer.extend(self.hardware);
        answer.resize(HEAD - MAGIC.len(), 0);
        answer.extend(MAGIC);
        answer.extend([KIND, 1, kind]);
        answer.extend([SERVER, 4]);
        answer.extend(lease.server.octets());
        if granted {
            answer.extend([LEASE, 4]);
            answer.extend(LEASE_SECONDS.to_be_bytes());
            answer.extend([MASK, 4]);
            answer.extend(lease.mask.octets());
            if let Some(router) = lease.router {
                answer.extend([ROUTER, 4]);
                answer.extend(router.octets());
            }
        }
        answer.push(END);
        answer.resize(answer.len().max(LENGTH_MIN), PAD);
        // One that renews has its address; any other hears only what is for everybody.
        let to = has.filter(|_| granted).unwrap_or(Ipv4Addr::BROADCAST);
        Some((answer, to))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASED: Lease = Lease {
        address: Ipv4Addr::new(10, 30, 0, 17),
        mask: Ipv4Addr::new(255, 255, 255, 0),
        router: Some(Ipv4Addr::new(10, 30, 0, 1)),
        server: Ipv4Addr::new(10, 30, 0, 1),
    };

    fn message(kind: u8, has: [u8; 4], options: &[u8]) -> Vec<u8> {
        let mut message = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
        message.extend(has);
        message.extend([0; 12]);
        message.extend([0x52, 0x54, 0, 0x11, 0x22, 0x33]);
        message.resize(HEAD - 4, 0);
        message.extend(MAGIC);
        message.extend([PAD, KIND, 1, kind]);
        message.extend(options);
        message.push(END);
        message
    }

    /// What kind of answer, for which address, to whom.
    fn asked(message: &[u8]) -> Option<(u8, [u8; 4], Ipv4Addr)> {
        let (answer, to) = Question::read(message)?.answer(&LEASED)?;
        assert!(answer.len() >= LENGTH_MIN && answer[4..8] == [1, 2, 3, 4] && answer[28..34] == message[28..34]);
        assert_eq!(answer[240..242], [KIND, 1]);
        Some((answer[242], answer[16..20].try_into().expect("four"), to))
    }

    #[test]
    fn a_machine_gets_its_own_address_and_no_other() {
        let (everybody, own) = (Ipv4Addr::BROADCAST, [10, 30, 0, 17]);
        let ours: &[u8] = &[SERVER, 4, 10, 30, 0, 1];
        let wants = |address: [u8; 4]| [&[WANTED, 4], &address[..]].concat();
        assert_eq!(asked(&message(DISCOVER, [0; 4], &[])), Some((OFFER, own, everybody)));
        let takes = [wants(own), ours.to_vec()].concat();
        assert_eq!(asked(&message(REQUEST, [0; 4], &takes)), Some((ACKNOWLEDGED, own, everybody)));
        assert_eq!(asked(&message(REQUEST, own, &[])), Some((ACKNOWLEDGED, own, own.into())), "renewed");
        let other = wants([10, 99, 0, 17]);
        assert_eq!(asked(&message(REQUEST, [0; 4], &other)), Some((DENIED, [0; 4], everybody)), "of another site");
        assert_eq!(asked(&message(REQUEST, [0; 4], &[SERVER, 4, 10, 30, 0, 9])), None, "somebody else's offer");
        assert_eq!(asked(&message(7, own, &[])), None, "a release");
        let question = Question::read(&message(DISCOVER, [0; 4], &[])).expect("sound");
        assert_eq!(question.mac.to_string(), "52:54:00:11:22:33");
        let (answer, _) = question.answer(&LEASED).expect("answered");
        for option in [&[MASK, 4, 255, 255, 255, 0], &[ROUTER, 4, 10, 30, 0, 1]] {
            assert!(answer.windows(6).any(|window| window == option), "{option:?}");
        }
    }

    proptest! {
        #[test]
        fn no_message_is_more_than_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 0..300_usize) {
            let _ = Question::read(&bytes);
            let sound = message(REQUEST, [0; 4], &bytes);
            if let Some(question) = Question::read(sound.get(..cut).unwrap_or(&sound)) {
                let _ = question.answer(&LEASED);
            }
        }
    }
}
