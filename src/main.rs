//! The program: arguments in, exit code out. No logic.

use refreshd::commands;

/// Gives memory back to the system after a large configuration was read.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> commands::Exit {
    commands::main()
}
