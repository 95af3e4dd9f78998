//! The program: hands its arguments and environment to the library and ends with the code it gives.

use plakar::{Env, run};

fn main() -> std::process::ExitCode {
    run(std::env::args_os().skip(1), Env::of_process()).into()
}
