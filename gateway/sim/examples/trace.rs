//! scratch
use lifeboat_sim::*;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let seed = u64::from_str_radix(a[1].trim_start_matches("0x"), 16).unwrap();
    if a.len() > 2 {
        let f = disk::Fault { at: a[2].parse().unwrap(), errno: if a[3] == "Io" { disk::Errno::Io } else { disk::Errno::NoSpace }, for_good: a[4] == "true", short: a[5] == "true" };
        println!("{:?}", scenario::run_with_fault(seed, 60, f, &mut Default::default()));
        return;
    }
    println!("{:?}", scenario::random_run(seed, &Default::default()));
}
