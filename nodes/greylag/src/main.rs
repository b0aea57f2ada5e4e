//! The one binary: a node, and everything that talks to one.

use std::process::ExitCode;

fn main() -> ExitCode {
    greylag_node::run()
}
