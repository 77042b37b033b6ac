//! The linker folds functions whose machine code is the same: one of each is enough where every kind has its own. (Half of the
//! program is such code. Nothing here compares the addresses of functions.)

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
