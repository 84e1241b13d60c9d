//! Jobs: long operations, kept over a restart.

use crate::{
    Catalog, Result,
    row::{parsed, parsed_option},
};
use model::{JobId, VmId};
use rusqlite::{Row, params};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: JobId,
    pub vm: Option<VmId>,
    pub kind: String,
    pub state: String,
    /// Percent, 0 to 100.
    pub progress: u8,
    pub stage: String,
    pub created_ms: i64,
    pub started_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    /// JSON.
    pub json: String,
}

impl Catalog {
    /// Inserts the job or replaces the one with its id.
    pub fn save_job(&self, job: &Job) -> Result<()> {
        self.writer().execute(
            "INSERT OR REPLACE INTO job
             (id, vm, kind, state, progress, stage, created_ms, started_ms, ended_ms, json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                job.id.to_string(),
                job.vm.map(|vm| vm.to_string()),
                job.kind,
                job.state,
                job.progress,
                job.stage,
                job.created_ms,
                job.started_ms,
                job.ended_ms,
                job.json
            ],
        )?;
        Ok(())
    }

    pub fn job(&self, id: JobId) -> Result<Option<Job>> {
        Ok(self.query_jobs("WHERE id = ?1", &[&id.to_string()])?.pop())
    }

    /// All jobs, oldest first.
    pub fn jobs(&self) -> Result<Vec<Job>> {
        self.query_jobs("ORDER BY created_ms, id", &[])
    }

    pub fn delete_job(&self, id: JobId) -> Result<()> {
        self.writer().execute("DELETE FROM job WHERE id = ?1", [id.to_string()])?;
        Ok(())
    }

    /// Removes jobs that ended before `time_ms`; the number removed.
    pub fn delete_jobs_ended_before(&self, time_ms: i64) -> Result<usize> {
        Ok(self.writer().execute("DELETE FROM job WHERE ended_ms < ?1", [time_ms])?)
    }

    fn query_jobs(&self, rest: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<Job>> {
        let writer = self.writer();
        let mut query = writer.prepare_cached(&format!("SELECT * FROM job {rest}"))?;
        Ok(query.query_map(values, job)?.collect::<rusqlite::Result<_>>()?)
    }
}

fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: parsed(row, "id")?,
        vm: parsed_option(row, "vm")?,
        kind: row.get("kind")?,
        state: row.get("state")?,
        progress: row.get("progress")?,
        stage: row.get("stage")?,
        created_ms: row.get("created_ms")?,
        started_ms: row.get("started_ms")?,
        ended_ms: row.get("ended_ms")?,
        json: row.get("json")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_listed_by_age_and_swept_after_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("c")).unwrap();
        let job = |created_ms, ended_ms| Job {
            id: JobId::random(),
            vm: Some(VmId::random()),
            kind: "failover".into(),
            state: "running".into(),
            progress: 40,
            stage: "overlay".into(),
            created_ms,
            started_ms: Some(created_ms),
            ended_ms,
            json: "{}".into(),
        };
        let (younger, older, ended) = (job(20, None), job(10, None), job(5, Some(30)));
        for job in [&younger, &older, &ended] {
            catalog.save_job(job).unwrap();
        }
        assert_eq!(catalog.jobs().unwrap(), [ended.clone(), older.clone(), younger.clone()]);
        assert_eq!(catalog.delete_jobs_ended_before(30).unwrap(), 0);
        assert_eq!(catalog.delete_jobs_ended_before(31).unwrap(), 1);
        assert_eq!(catalog.job(ended.id).unwrap(), None);
        assert_eq!(catalog.job(older.id).unwrap(), Some(older.clone()));
        assert!(catalog.save_job(&Job { progress: 101, ..older }).is_err());
        catalog.delete_job(younger.id).unwrap();
        assert_eq!(catalog.jobs().unwrap().len(), 1);
    }
}
