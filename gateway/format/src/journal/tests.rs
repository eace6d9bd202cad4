use super::*;

fn sample() -> (BatchHeader, Vec<u8>) {
    let volume = VolumeId::from_bytes([7; 16]);
    let payload = vec![0x5a; 2 * BLOCK_SIZE];
    let point = encode_point([9; 16], Timestamp::from_micros(11), 1, "nightly");
    let header = BatchHeader {
        group: GroupId::from_bytes([1; 16]),
        incarnation: 3,
        epoch: Epoch(2),
        first_lsn: Lsn(41),
        previous_checksum: 0xdead_beef,
        durable_lsn: Lsn(40),
        time: Timestamp::from_micros(1_795_000_000_000_000),
        entries: vec![
            Entry::with_payload(volume, EntryOp::Write, 100, 2, &payload).expect("fits"),
            Entry::bare(volume, EntryOp::Trim, 7, 9),
            Entry::with_payload(VolumeId::from_bytes([0; 16]), EntryOp::Point, 0, 0, &point).expect("fits"),
        ],
    };
    let mut batch = header.encode().expect("encodes").0.to_vec();
    batch.extend_from_slice(&payload);
    batch.extend_from_slice(&point);
    batch.resize(header.total_len(), 0);
    (header, batch)
}

#[test]
fn a_batch_round_trips() {
    let (header, batch) = sample();
    let (decoded, checksum) = BatchHeader::decode(&batch).expect("decodes");
    assert_eq!(decoded, header);
    assert_eq!(checksum, header.encode().expect("encodes").1);
    let places = check_payload(&decoded, &batch).expect("intact");
    assert_eq!(places, [(4096, 8192), (12288, 0), (12288, 33)]);
    let (start, len) = places[2];
    let point = decode_point(&batch[start..start + len]).expect("a point");
    assert_eq!(point, ([9; 16], Timestamp::from_micros(11), 1, "nightly".to_owned()));
    assert_eq!(decoded.last_lsn(), Lsn(43));
}

#[test]
fn a_label_is_cut_between_characters() {
    let bytes = encode_point([9; 16], Timestamp::from_micros(11), 1, &"ä".repeat(200));
    assert_eq!(decode_point(&bytes).expect("a point").3, "ä".repeat(127));
}

#[test]
fn every_flipped_bit_of_the_header_block_is_found() {
    let (header, batch) = sample();
    for byte in 0..JOURNAL_BLOCK {
        for bit in 0..8 {
            let mut damaged = batch.clone();
            damaged[byte] ^= 1 << bit;
            assert_ne!(BatchHeader::decode(&damaged).map(|found| found.0), Ok(header.clone()), "byte {byte} bit {bit}");
        }
    }
}

#[test]
fn every_flipped_byte_of_a_payload_is_found_but_for_the_padding() {
    let (header, batch) = sample();
    for byte in JOURNAL_BLOCK..header.total_len() {
        let mut damaged = batch.clone();
        damaged[byte] ^= 0x10;
        let padding = byte >= 12288 + 33;
        assert_eq!(check_payload(&header, &damaged).is_ok(), padding, "byte {byte}");
    }
}

#[test]
fn a_newer_version_says_so() {
    let (_, mut batch) = sample();
    batch[4] = 3;
    let crc = batch_checksum(batch[..JOURNAL_BLOCK].try_into().expect("a block"));
    batch[92..96].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(BatchHeader::decode(&batch), Err(JournalFormatError::Newer { found: 3 }));
}

/// Operations that version 1 did not have are damage in it, not something to guess at.
#[test]
fn an_operation_of_a_later_version_is_damage() {
    let mut header = sample().0;
    header.entries = vec![Entry::bare(VolumeId::from_bytes([7; 16]), EntryOp::Copy, 100, 2)];
    let mut batch = header.encode().expect("encodes").0;
    assert_eq!(BatchHeader::decode(&batch).expect("decodes").0, header);
    batch[4] = 1;
    let crc = batch_checksum(&batch);
    batch[92..96].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(BatchHeader::decode(&batch), Err(JournalFormatError::Damaged("journal batch header")));
}

#[test]
fn a_file_header_round_trips_and_every_flipped_bit_is_found() {
    let header = FileHeader {
        group: GroupId::from_bytes([1; 16]),
        number: 12,
        first_lsn: Lsn(1000),
        incarnation: 4,
        length: 64 << 20,
        time: Timestamp::from_micros(5),
    };
    let block = header.encode();
    assert_eq!(FileHeader::decode(&block), Ok(header));
    for byte in 0..FILE_HEADER {
        let mut damaged = block;
        damaged[byte] ^= 1;
        assert!(FileHeader::decode(&damaged).is_err(), "byte {byte}");
    }
    assert_eq!(FileHeader::decode(&[0; 4096]), Err(JournalFormatError::NotThisKind("journal file header")));
    assert!(FileHeader::decode(b"LBJF").is_err());
}

#[test]
fn short_and_hostile_bytes_are_refused_without_a_panic() {
    let (_, batch) = sample();
    for length in 0..batch.len().min(5000) {
        assert!(BatchHeader::decode(&batch[..length.min(4095)]).is_err());
    }
    let (header, _) = BatchHeader::decode(&batch).expect("decodes");
    assert!(check_payload(&header, &batch[..8000]).is_err());
    assert!(decode_point(&[]).is_err());
}
