//! The formats from outside: golden bytes, tampering with every bit, generated round trips, hostile input.

mod fixture;
mod hashes;
mod properties;
mod tamper;
mod vectors;
