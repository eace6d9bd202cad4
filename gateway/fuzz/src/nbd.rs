//! NBD's client, as a fuzzer imagines it.

use bytes::BytesMut;
use lifeboat_export::nbd::name;
use lifeboat_export::nbd::wire::{
    Negotiation, OPTION_BYTES_MAX, OPTIONS_MAX, PAYLOAD_MAX, REQUEST_BYTES, Request, Step,
};

/// What a client says, cut where the first byte says: the same however it is cut, and never kept beyond an option.
pub(crate) fn negotiation(data: &[u8]) {
    let Some((cut, said)) = data.split_first() else { return };
    let whole = negotiated(said, said.len().max(1));
    assert_eq!(negotiated(said, usize::from(*cut).max(1)), whole);
    for step in whole {
        if let Step::Go(asked) | Step::Info(asked) = &step
            && let Some(file) = name::parse(&asked.name)
        {
            assert_eq!(name::parse(&name::of(&file)), Some(file));
        }
    }
}

/// The steps up to the end, or to what breaks the protocol.
fn negotiated(said: &[u8], chunk: usize) -> Vec<Step> {
    let (mut negotiation, mut input, mut steps) = (Negotiation::default(), BytesMut::new(), Vec::new());
    for part in said.chunks(chunk) {
        input.extend_from_slice(part);
        loop {
            match negotiation.next(&mut input) {
                Ok(Some(step)) => steps.push(step),
                Ok(None) => break,
                Err(_) => return steps,
            }
        }
        assert!(input.len() < OPTION_BYTES_MAX as usize + 16, "{} bytes are kept", input.len());
        assert!(steps.len() <= OPTIONS_MAX as usize);
    }
    steps
}

/// The header of a request: a payload is never longer than allowed.
pub(crate) fn request(data: &[u8]) {
    if let Some(header) = data.first_chunk::<REQUEST_BYTES>()
        && let Ok(request) = Request::decode(header)
    {
        assert!(request.payload() <= PAYLOAD_MAX);
    }
}
