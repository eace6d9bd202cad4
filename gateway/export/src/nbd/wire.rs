//! The bytes of the protocol, without I/O: what a client says during the negotiation, its requests, and our answers.
//!
//! ```text
//! Flags ──4 bytes──> Option header ──16 bytes──> its data ──> Step, then the next option header
//!                                    └ too long, a wrong magic, too many: Violation (the connection ends)
//! ```
//! All numbers are big-endian. What comes in is limited before it is kept: an option has at most [`OPTION_BYTES_MAX`] bytes,
//! a client has at most [`OPTIONS_MAX`] of them, a write at most [`PAYLOAD_MAX`] bytes. The numbers and names are those of
//! `doc/proto.md` in the NetworkBlockDevice/nbd repository.

use bytes::{Buf, BufMut, BytesMut};

/// The most bytes that one request may read or write: what clients may assume of every server.
pub const PAYLOAD_MAX: u32 = 32 << 20;
/// The most bytes of one option: the longest name (4096), and room for the information that is asked for.
pub const OPTION_BYTES_MAX: u32 = 8 << 10;
/// The most options that a client may send.
pub const OPTIONS_MAX: u32 = 64;
/// Bytes of a request's header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply's header.
pub const REPLY_BYTES: usize = 16;

/// Size of a block, as the protocol counts.
const BLOCK_SIZE: u32 = 4096;
const NAME_BYTES_MAX: usize = 4096;
const OPTION_HEADER_BYTES: usize = 16;

const GREETING: &[u8; 8] = b"NBDMAGIC";
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

const FIXED_NEWSTYLE: u16 = 1 << 0;
const NO_ZEROES: u16 = 1 << 1;

const OPT_EXPORT_NAME: u32 = 1;
const OPT_ABORT: u32 = 2;
const OPT_LIST: u32 = 3;
const OPT_STARTTLS: u32 = 5;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;

const REP_ACK: u32 = 1;
const REP_SERVER: u32 = 2;
const REP_INFO: u32 = 3;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags of an export.
pub mod export_flags {
    /// The field has a meaning at all.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// FUA is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// A flush covers what other connections were acknowledged.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// WRITE_ZEROES is never slower than a write of the same length.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Flags of a request.
pub mod request_flags {
    /// Answer when it survives a loss of power.
    pub const FUA: u16 = 1 << 0;
    /// Zeroes that keep their space.
    pub const NO_HOLE: u16 = 1 << 1;
    /// Zeroes only if that is fast, which it is.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// All that are understood.
    pub const KNOWN: u16 = FUA | NO_HOLE | FAST_ZERO;
}

/// Why an option is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The option isn't understood.
    Unsupported,
    /// Who asks may not have that.
    Policy,
    /// Nothing without TLS.
    TlsRequired,
    /// The option's data makes no sense.
    Invalid,
    /// There is no such export, or it can't be had.
    Unknown,
    /// Not now: the gateway is stopping.
    Shutdown,
}

impl Refusal {
    const fn code(self) -> u32 {
        (1 << 31)
            | match self {
                Self::Unsupported => 1,
                Self::Policy => 2,
                Self::Invalid => 3,
                Self::TlsRequired => 5,
                Self::Unknown => 6,
                Self::Shutdown => 7,
            }
    }
}

/// What ends a connection without an answer: a client that speaks something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Client flags that no version knows.
    #[error("the client sent flags {0:#x} that aren't known")]
    Flags(u32),
    /// An option or a request without its magic number.
    #[error("the client sent something that is no NBD message")]
    Magic,
    /// An option that is longer than any sensible one.
    #[error("the client sent an option of {0} bytes")]
    OptionTooLong(u32),
    /// Options without end.
    #[error("the client sent more than {OPTIONS_MAX} options")]
    TooManyOptions,
    /// A write that is longer than allowed.
    #[error("the client sent a write of {0} bytes; {PAYLOAD_MAX} are the most")]
    WriteTooLong(u32),
    /// Words in the clear behind the wish for TLS: somebody put them there.
    #[error("the client sent something in the clear after it had asked for TLS")]
    Early,
    /// An old client, which can't be refused in words, asks for an export without TLS.
    #[error("the client asked for an export without TLS")]
    Clear,
    /// The name of an old client's export, which can't be refused in words, is no text.
    #[error("the client sent a name that is no text of up to {NAME_BYTES_MAX} bytes")]
    Name,
}

/// What a client asks for in its negotiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An old client takes an export; there is no way to refuse but to end the connection.
    ExportName(String),
    /// It leaves.
    Abort,
    /// It wants the names of the exports.
    List,
    /// It wants to go on with TLS.
    StartTls,
    /// It wants to know about an export.
    Info(Asked),
    /// It takes an export.
    Go(Asked),
    /// Something that is refused, with a sentence for its user.
    Refuse {
        /// The option's number.
        option: u32,
        /// Why.
        refusal: Refusal,
        /// In words.
        message: &'static str,
    },
}

/// An export that a client asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The export's name.
    pub name: String,
    /// Whether it wants to hear the name as the server spells it.
    pub wants_name: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Flags,
    Option,
    Data { option: u32, len: usize },
}

/// The client's side of a negotiation, fed with what comes in.
#[derive(Debug)]
pub struct Negotiation {
    expected: Expected,
    no_zeroes: bool,
    options: u32,
}

impl Default for Negotiation {
    fn default() -> Self {
        Self { expected: Expected::Flags, no_zeroes: false, options: 0 }
    }
}

impl Negotiation {
    /// Whether an old client wants no padding behind the answer to its export's name.
    #[must_use]
    pub const fn no_zeroes(&self) -> bool {
        self.no_zeroes
    }

    /// Takes what it can from the front of `input`: a step, or `None` when more has to come first. `input` never has to
    /// hold more than an option's header and [`OPTION_BYTES_MAX`].
    ///
    /// # Errors
    /// The client breaks the protocol: the connection ends.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Step>, Violation> {
        loop {
            match self.expected {
                Expected::Flags => {
                    let Ok(flags) = input.try_get_u32() else { return Ok(None) };
                    if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
                        return Err(Violation::Flags(flags));
                    }
                    self.no_zeroes = flags & u32::from(NO_ZEROES) != 0;
                    self.expected = Expected::Option;
                }
                Expected::Option => {
                    if input.len() < OPTION_HEADER_BYTES {
                        return Ok(None);
                    }
                    let (magic, option, len) = (input.get_u64(), input.get_u32(), input.get_u32());
                    if magic != OPTION_MAGIC {
                        return Err(Violation::Magic);
                    }
                    if len > OPTION_BYTES_MAX {
                        return Err(Violation::OptionTooLong(len));
                    }
                    self.options += 1;
                    if self.options > OPTIONS_MAX {
                        return Err(Violation::TooManyOptions);
                    }
                    self.expected = Expected::Data { option, len: len as usize };
                }
                Expected::Data { option, len } => {
                    if input.len() < len {
                        return Ok(None);
                    }
                    let data = input.split_to(len);
                    self.expected = Expected::Option;
                    return step(option, &data).map(Some);
                }
            }
        }
    }
}

/// What an option means.
fn step(option: u32, data: &[u8]) -> Result<Step, Violation> {
    let refuse = |refusal, message| Ok(Step::Refuse { option, refusal, message });
    match option {
        OPT_EXPORT_NAME => text(data).map(Step::ExportName).ok_or(Violation::Name),
        OPT_ABORT => Ok(Step::Abort),
        OPT_LIST if data.is_empty() => Ok(Step::List),
        OPT_LIST => refuse(Refusal::Invalid, "a list is asked for without data"),
        OPT_STARTTLS if data.is_empty() => Ok(Step::StartTls),
        OPT_STARTTLS => refuse(Refusal::Invalid, "TLS is asked for without data"),
        OPT_INFO | OPT_GO => match asked(data) {
            Some(asked) if option == OPT_GO => Ok(Step::Go(asked)),
            Some(asked) => Ok(Step::Info(asked)),
            None => refuse(Refusal::Invalid, "the option's lengths don't add up, or the name is no text"),
        },
        _ => refuse(Refusal::Unsupported, "this server doesn't do that"),
    }
}

/// Length and text of a name, then how much information is asked for, and which.
fn asked(mut data: &[u8]) -> Option<Asked> {
    let len = usize::try_from(data.try_get_u32().ok()?).ok()?;
    let (name, mut rest) = data.split_at_checked(len)?;
    let name = text(name)?;
    let count = usize::from(rest.try_get_u16().ok()?);
    if rest.len() != count * 2 {
        return None;
    }
    let mut wants_name = false;
    while let Ok(kind) = rest.try_get_u16() {
        wants_name |= kind == INFO_NAME;
    }
    Some(Asked { name, wants_name })
}

fn text(bytes: &[u8]) -> Option<String> {
    if bytes.len() > NAME_BYTES_MAX {
        return None;
    }
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// What is told about an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its [`export_flags`].
    pub flags: u16,
}

impl ExportInfo {
    /// What is true of an export of this size.
    #[must_use]
    pub const fn new(size_bytes: u64, read_only: bool) -> Self {
        use export_flags::{
            CAN_MULTI_CONN, HAS_FLAGS, READ_ONLY, SEND_FAST_ZERO, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES,
        };
        let flags = HAS_FLAGS | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN;
        let more = if read_only { READ_ONLY } else { SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO };
        Self { size_bytes, flags: flags | more }
    }
}

/// The first words of the server.
#[must_use]
pub fn greeting() -> BytesMut {
    let mut out = BytesMut::with_capacity(18);
    out.put_slice(GREETING);
    out.put_u64(OPTION_MAGIC);
    out.put_u16(FIXED_NEWSTYLE | NO_ZEROES);
    out
}

/// An old client's export.
pub fn put_export(out: &mut BytesMut, info: ExportInfo, no_zeroes: bool) {
    out.put_u64(info.size_bytes);
    out.put_u16(info.flags);
    if !no_zeroes {
        out.put_bytes(0, 124);
    }
}

/// The end of a list, of information, of a negotiation.
pub fn put_ack(out: &mut BytesMut, step: &Step) {
    put_option_reply(out, number(step), REP_ACK, &[]);
}

/// One name of a list.
pub fn put_listed(out: &mut BytesMut, name: &str) {
    let mut data = BytesMut::with_capacity(4 + name.len());
    data.put_u32(u32::try_from(name.len()).unwrap_or(u32::MAX));
    data.put_slice(name.as_bytes());
    put_option_reply(out, OPT_LIST, REP_SERVER, &data);
}

/// What an export is. Block sizes: any offset will do, 4096 is what fits best.
pub fn put_info(out: &mut BytesMut, step: &Step, info: ExportInfo, name: Option<&str>) {
    let option = number(step);
    let mut data = BytesMut::new();
    data.put_u16(INFO_EXPORT);
    data.put_u64(info.size_bytes);
    data.put_u16(info.flags);
    put_option_reply(out, option, REP_INFO, &data);
    data.clear();
    data.put_u16(INFO_BLOCK_SIZE);
    data.put_u32(1);
    data.put_u32(BLOCK_SIZE);
    data.put_u32(PAYLOAD_MAX);
    put_option_reply(out, option, REP_INFO, &data);
    if let Some(name) = name {
        data.clear();
        data.put_u16(INFO_NAME);
        data.put_slice(name.as_bytes());
        put_option_reply(out, option, REP_INFO, &data);
    }
}

/// An option is refused, in words for the client's user.
pub fn put_refusal(out: &mut BytesMut, step: &Step, refusal: Refusal, message: &str) {
    put_option_reply(out, number(step), refusal.code(), message.as_bytes());
}

const fn number(step: &Step) -> u32 {
    match step {
        Step::ExportName(_) => OPT_EXPORT_NAME,
        Step::Abort => OPT_ABORT,
        Step::List => OPT_LIST,
        Step::StartTls => OPT_STARTTLS,
        Step::Info(_) => OPT_INFO,
        Step::Go(_) => OPT_GO,
        Step::Refuse { option, .. } => *option,
    }
}

fn put_option_reply(out: &mut BytesMut, option: u32, kind: u32, data: &[u8]) {
    out.put_u64(OPTION_REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(kind);
    out.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
    out.put_slice(data);
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Read bytes.
    Read,
    /// Write the bytes that follow the header.
    Write,
    /// Leave in order; it has no reply.
    Disconnect,
    /// Make what was acknowledged durable.
    Flush,
    /// The range is no longer used.
    Trim,
    /// The range reads as zeroes.
    WriteZeroes,
    /// Something that isn't understood, by its number.
    Other(u16),
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub command: Command,
    /// Its [`request_flags`].
    pub flags: u16,
    /// The client's name for it, which the reply repeats.
    pub cookie: u64,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes. For a write so many bytes follow.
    pub len: u32,
}

impl Request {
    /// Reads a header.
    ///
    /// # Errors
    /// It is none, or a write is too long: the connection ends, as what follows can't be found.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, Violation> {
        let mut bytes = bytes.as_slice();
        if bytes.get_u32() != REQUEST_MAGIC {
            return Err(Violation::Magic);
        }
        let flags = bytes.get_u16();
        let command = match bytes.get_u16() {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            6 => Command::WriteZeroes,
            other => Command::Other(other),
        };
        let request = Self { command, flags, cookie: bytes.get_u64(), offset: bytes.get_u64(), len: bytes.get_u32() };
        if request.payload() > PAYLOAD_MAX {
            return Err(Violation::WriteTooLong(request.len));
        }
        Ok(request)
    }

    /// How many bytes follow the header.
    #[must_use]
    pub const fn payload(&self) -> u32 {
        match self.command {
            Command::Write => self.len,
            _ => 0,
        }
    }
}

/// The header of a simple reply; `error` is 0 for success, and then the bytes of a read follow.
pub fn put_reply(out: &mut BytesMut, cookie: u64, error: u32) {
    out.put_u32(REPLY_MAGIC);
    out.put_u32(error);
    out.put_u64(cookie);
}

#[cfg(test)]
mod tests;
