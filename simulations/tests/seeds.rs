//! A handful of seeds, each flown twice in processes of their own: the promises hold, and the two runs are the same,
//! byte for byte.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::process::Command;

fn fly(seed: u64) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_greylag-simulate"))
        .args(["first-flight", "--seed", &seed.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn twice_the_same(seed: u64) {
    let (first, second) = (fly(seed), fly(seed));
    assert!(first.contains("trace "), "{first}");
    assert_eq!(first, second, "seed {seed} gave two different runs");
    println!("{first}");
}

#[test]
fn seed_1_twice() {
    twice_the_same(1);
}

#[test]
fn seed_2_twice() {
    twice_the_same(2);
}

#[test]
fn seed_3_twice() {
    twice_the_same(3);
}

#[test]
fn different_seeds_are_different_runs() {
    assert_ne!(fly(4), fly(5));
}
