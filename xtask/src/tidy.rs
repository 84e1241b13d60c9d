//! placeholder
pub fn check(_root: &std::path::Path) -> anyhow::Result<()> {
    anyhow::bail!("tidy is not written yet")
}
