//! Clients that others wrote, unmodified, against real hosts over HTTPS: pywbem and pypsrp tell the whole story by
//! the examples, others do their part. `cargo xtask setup` installs them.

mod managed;
mod others;
mod story;
#[path = "../support/mod.rs"]
mod support;

fn holds(result: anyhow::Result<()>) {
    result.unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn pywbem_tells_the_whole_story_over_cim_xml() {
    holds(story::tell("cimxml"));
}

#[test]
fn pypsrp_tells_the_whole_story_over_ws_management() {
    holds(story::tell("wsman"));
}

#[test]
fn command_line_clients_and_dracclient_enumerate_get_and_call() {
    let (pair, ports) = others::host().unwrap();
    holds(others::pywbemcli(&pair, ports));
    holds(others::wbemcli(&pair, ports));
    holds(others::wsl(&pair, ports));
    holds(others::dracclient(ports));
    holds(others::documented(&pair, ports));
}
