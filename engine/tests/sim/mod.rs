//! A deterministic model of two hosts around the real engine.

pub mod check;
pub mod disk;
mod flows;
pub mod operator;
pub mod reality;
pub mod shell;
pub mod third;
pub mod world;
