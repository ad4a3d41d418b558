//! The program as people and clients use it: commands, exit codes, signals, and what is left behind.
//!
//! Every test has its own directory, its own home and its own ports, and stops what it started.

mod cli {
    mod call;
    mod check;
    mod fixture;
    mod import;
    mod install;
    mod instance;
    mod listing;
    mod operators;
    mod reload;
    mod stdio;
    mod stop;
}
