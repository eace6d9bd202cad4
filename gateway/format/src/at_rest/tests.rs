use super::*;

fn key(byte: u8) -> LocalKey {
    LocalKey::from_bytes([byte; KEY_LEN])
}

fn bytes(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

fn cipher(name: &str) -> FileCipher {
    Marker::new(&key(7), [9; SALT_LEN]).open(&key(7)).unwrap().file(name)
}

fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + at / 251 + 1) % 256).unwrap()).collect()
}

/// IEEE 1619-2007, annex B, vectors 10 and 12: AES-256, data units of 512 bytes; the first and last 32 bytes of the results.
#[test]
fn the_cipher_is_the_standards() {
    let data: [u8; 32] = bytes("2718281828459045235360287471352662497757247093699959574966967627").try_into().unwrap();
    let tweak: [u8; 32] = bytes("3141592653589793238462643383279502884197169399375105820974944592").try_into().unwrap();
    let xts = Xts::new(&data, &tweak);
    let plain: Vec<u8> = (0..512).map(|at| u8::try_from(at % 256).unwrap()).collect();
    for (sector, first) in [
        (0xff, "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"),
        (0xffff, "77a31251618a15e6b92d1d66dffe7b50b50bad552305ba0217a610688eff7e11"),
    ] {
        let mut sealed = plain.clone();
        xts.encrypt(sector, &mut sealed);
        assert_eq!(sealed[..32], bytes(first), "sector {sector:#x}");
        xts.decrypt(sector, &mut sealed);
        assert_eq!(sealed, plain);
    }
}

#[test]
fn any_part_can_be_written_and_read_on_its_own() {
    let cipher = cipher("v.img");
    let plain = noise(3 * SECTOR);
    let mut whole = plain.clone();
    cipher.encrypt(0, &mut whole);
    for (start, end) in [(0, 16), (16, 4096), (4080, 4112), (4096, 8192), (5000 / 16 * 16, 12288), (0, 12288)] {
        let mut part = plain[start..end].to_vec();
        cipher.encrypt(start as u64, &mut part);
        assert_eq!(part, whole[start..end], "{start}..{end}");
        cipher.decrypt(start as u64, &mut part);
        assert_eq!(part, plain[start..end], "{start}..{end}");
    }
}

#[test]
fn zeroes_on_the_disk_are_zeroes_and_zeroes_that_are_written_show_as_nothing() {
    let cipher = cipher("v.img");
    let mut disk = vec![0; 2 * SECTOR];
    let mut unit = [1; UNIT];
    cipher.encrypt(4096 + 32, &mut unit);
    disk[4096 + 32..4096 + 48].copy_from_slice(&unit);
    cipher.decrypt(0, &mut disk);
    let mut expected = vec![0; 2 * SECTOR];
    expected[4096 + 32..4096 + 48].fill(1);
    assert_eq!(disk, expected);

    let mut zeroes = vec![0; SECTOR];
    cipher.encrypt(0, &mut zeroes);
    assert!(zeroes.chunks(UNIT).all(|unit| unit.iter().any(|byte| *byte != 0)), "what is written is encrypted");
    cipher.decrypt(0, &mut zeroes);
    assert_eq!(zeroes, vec![0; SECTOR]);
}

#[test]
fn files_sectors_directories_and_keys_are_told_apart() {
    let plain = noise(2 * SECTOR);
    let sealed = |key: &LocalKey, salt: u8, name: &str, offset: u64| {
        let mut bytes = plain.clone();
        Marker::new(key, [salt; SALT_LEN]).open(key).unwrap().file(name).encrypt(offset, &mut bytes);
        bytes
    };
    let all = [
        sealed(&key(1), 1, "a", 0),
        sealed(&key(2), 1, "a", 0),
        sealed(&key(1), 2, "a", 0),
        sealed(&key(1), 1, "b", 0),
        sealed(&key(1), 1, "a", 8192),
    ];
    for (at, one) in all.iter().enumerate() {
        assert_ne!(one[..SECTOR], one[SECTOR..], "two sectors of the same content");
        for other in &all[at + 1..] {
            assert!(one.chunks(UNIT).zip(other.chunks(UNIT)).all(|(a, b)| a != b), "{at}");
        }
    }
}

#[test]
fn a_marker_knows_its_key_and_every_damage() {
    let marker = Marker::new(&key(1), [3; SALT_LEN]);
    let encoded = marker.encode();
    assert_eq!(encoded.len(), MARKER_LEN);
    assert_eq!(Marker::decode(&encoded), Ok(marker.clone()));
    assert_eq!(marker.open(&key(2)).unwrap_err(), FormatError::WrongKey { what: MARKER.what });
    for at in 0..encoded.len() {
        for bit in 0..8 {
            let mut damaged = encoded.clone();
            damaged[at] ^= 1 << bit;
            assert!(Marker::decode(&damaged).is_err(), "byte {at}, bit {bit}");
        }
        assert!(Marker::decode(&encoded[..at]).is_err(), "{at} bytes");
    }
    assert!(Marker::decode(&[encoded.clone(), vec![0]].concat()).is_err(), "longer");
}

#[test]
fn a_text_opens_with_its_key_under_its_name_and_unchanged_only() {
    let sealed = seal_text(&key(1), "vaults.json", [5; SALT_LEN], b"secret").unwrap();
    assert!(is_sealed_text(&sealed) && !is_sealed_text(b"[{"));
    assert!(!sealed.windows(6).any(|window| window == b"secret"));
    assert_eq!(open_text(&key(1), "vaults.json", &sealed).unwrap().as_slice(), b"secret");
    assert!(open_text(&key(2), "vaults.json", &sealed).is_err());
    assert!(open_text(&key(1), "ca.key", &sealed).is_err());
    for at in 0..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[at] ^= 1;
        assert!(open_text(&key(1), "vaults.json", &damaged).is_err(), "byte {at}");
        assert!(open_text(&key(1), "vaults.json", &sealed[..at]).is_err(), "{at} bytes");
    }
    assert!(seal_text(&key(1), "x", [0; SALT_LEN], &vec![0; TEXT_BYTES_MAX + 1]).is_err());
}

/// Threads share a file's cipher.
#[test]
fn many_threads_at_once_get_their_own_bytes() {
    let cipher = cipher("v.img");
    std::thread::scope(|threads| {
        for thread in 0..12_u64 {
            let cipher = &cipher;
            threads.spawn(move || {
                for round in 0..50 {
                    let offset = (thread * 50 + round) * SECTOR as u64;
                    let plain = noise(SECTOR);
                    let mut bytes = plain.clone();
                    cipher.encrypt(offset, &mut bytes);
                    cipher.decrypt(offset, &mut bytes);
                    assert_eq!(bytes, plain);
                }
            });
        }
    });
}
