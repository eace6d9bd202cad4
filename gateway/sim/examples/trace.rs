//! scratch
fn main() {
    let seed = u64::from_str_radix(std::env::args().nth(1).unwrap().trim_start_matches("0x"), 16).unwrap();
    println!("{:?}", lifeboat_sim::scenario::random_run(seed, &Default::default()));
}
