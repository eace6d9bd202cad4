//! What clients say, in pieces and in wholes, and what no client says.

use super::*;

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64(OPTION_MAGIC);
    out.put_u32(number);
    out.put_u32(u32::try_from(data.len()).unwrap());
    out.put_slice(data);
    out
}

fn go(name: &[u8], infos: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(u32::try_from(name.len()).unwrap());
    out.put_slice(name);
    out.put_u16(u16::try_from(infos.len()).unwrap());
    infos.iter().for_each(|info| out.put_u16(*info));
    out
}

fn steps(bytes: &[u8], chunk: usize) -> Result<Vec<Step>, Violation> {
    let (mut negotiation, mut input, mut found) = (Negotiation::default(), BytesMut::new(), Vec::new());
    for part in bytes.chunks(chunk) {
        input.put_slice(part);
        while let Some(step) = negotiation.next(&mut input)? {
            found.push(step);
        }
    }
    assert!(input.is_empty(), "{input:?} is left over");
    Ok(found)
}

#[test]
fn a_negotiation_is_the_same_however_it_is_cut() {
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend(option(8, &[]));
    bytes.extend(option(OPT_LIST, &[]));
    bytes.extend(option(OPT_INFO, &go(b"db", &[])));
    bytes.extend(option(OPT_GO, &go(b"db", &[3, 1])));
    let whole = steps(&bytes, bytes.len()).unwrap();
    assert!(matches!(whole[0], Step::Refuse { option: 8, refusal: Refusal::Unsupported, .. }), "{whole:?}");
    assert_eq!(whole[1], Step::List);
    assert_eq!(whole[2], Step::Info(Asked { name: "db".into(), wants_name: false }));
    assert_eq!(whole[3], Step::Go(Asked { name: "db".into(), wants_name: true }));
    for chunk in 1..20 {
        assert_eq!(steps(&bytes, chunk).unwrap(), whole, "in pieces of {chunk}");
    }
}

#[test]
fn lengths_that_do_not_add_up_are_refused_and_the_negotiation_goes_on() {
    for data in
        [vec![], vec![0, 0, 0, 9, b'd'], go(&[0xff, 0xfe], &[]), [go(b"db", &[]), vec![0]].concat(), vec![0xff; 6]]
    {
        let mut bytes = 1_u32.to_be_bytes().to_vec();
        bytes.extend(option(OPT_GO, &data));
        bytes.extend(option(OPT_ABORT, b"tired"));
        let steps = steps(&bytes, 7).unwrap();
        assert!(matches!(steps[0], Step::Refuse { refusal: Refusal::Invalid, .. }), "{data:?}: {steps:?}");
        assert_eq!(steps[1], Step::Abort);
    }
}

#[test]
fn what_no_client_says_ends_the_connection() {
    let after_flags = |bytes: &[u8]| steps(&[&[0, 0, 0, 1], bytes].concat(), 5);
    assert_eq!(steps(&[0, 0, 1, 0], 4), Err(Violation::Flags(0x100)));
    assert_eq!(after_flags(b"GET / HTTP/1.1\r\n\r\n"), Err(Violation::Magic));
    let mut long = option(OPT_GO, &[]);
    long.splice(12..16, 0x7fff_ffff_u32.to_be_bytes());
    assert_eq!(after_flags(&long), Err(Violation::OptionTooLong(0x7fff_ffff)));
    assert_eq!(after_flags(&option(77, &[]).repeat(65)), Err(Violation::TooManyOptions));
    assert_eq!(after_flags(&option(OPT_EXPORT_NAME, &[0xff])), Err(Violation::Name));
}

#[test]
fn a_request_is_a_header_and_only_a_write_brings_bytes() {
    let mut header = [0_u8; REQUEST_BYTES];
    let mut fields = header.as_mut_slice();
    fields.put_u32(REQUEST_MAGIC);
    fields.put_u16(request_flags::FUA);
    fields.put_u16(1);
    fields.put_u64(42);
    fields.put_u64(8192);
    fields.put_u32(4096);
    let request = Request::decode(&header).unwrap();
    let expected = Request { command: Command::Write, flags: 1, cookie: 42, offset: 8192, len: 4096 };
    assert_eq!((request, request.payload()), (expected, 4096));
    header[24..].copy_from_slice(&(PAYLOAD_MAX + 1).to_be_bytes());
    assert_eq!(Request::decode(&header), Err(Violation::WriteTooLong(PAYLOAD_MAX + 1)));
    header[7] = 0;
    assert_eq!(Request::decode(&header).map(|read| read.payload()), Ok(0), "a read brings none, so it can be answered");
    header[7] = 5;
    assert_eq!(Request::decode(&header).unwrap().command, Command::Other(5));
    header[0] = 0;
    assert_eq!(Request::decode(&header), Err(Violation::Magic));
}

#[test]
fn answers_are_those_of_the_protocol() {
    assert_eq!(greeting()[..], *b"NBDMAGICIHAVEOPT\0\x03");
    let mut out = BytesMut::new();
    let info = ExportInfo::new(4096, true);
    put_export(&mut out, info, false);
    assert_eq!((out.len(), &out[..10]), (134, &[0, 0, 0, 0, 0, 0, 0x10, 0, 0x01, 0x0f][..]));
    out.clear();
    let step = Step::Refuse { option: 5, refusal: Refusal::Unsupported, message: "" };
    put_refusal(&mut out, &step, Refusal::Unsupported, "no");
    assert_eq!(out[..], *b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x05\x80\0\0\x01\0\0\0\x02no");
    out.clear();
    put_reply(&mut out, 7, 108);
    assert_eq!((out.len(), &out[..]), (REPLY_BYTES, &b"\x67\x44\x66\x98\0\0\0\x6c\0\0\0\0\0\0\0\x07"[..]));
}
