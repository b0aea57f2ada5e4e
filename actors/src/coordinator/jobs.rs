//! The statements that run in the background at this coordinator. A bounded number, each of one principal; one that is
//! over is kept until nobody has asked for it for a while, or its place is needed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use greylag_protocol::{ErrorCode, JobId, MeshError, Result, principal::Principal, statement::RunningStatement};
use tokio::time::Instant;

use super::job::Job;
use crate::{
    NodeCtx,
    bounds::Bound,
    task::{TaskGuard, caught},
};

/// Jobs at one coordinator, those that are over among them.
pub const JOBS_MAX: u64 = 64;
/// Time for which the rows of one that is over are kept after they were last asked for.
pub const KEPT_MAX: Duration = Duration::from_secs(15 * 60);
/// How often it is looked whether some have been kept long enough.
const SWEEP: Duration = Duration::from_secs(30);

pub struct Jobs {
    all: Arc<Mutex<BTreeMap<JobId, Entry>>>,
    bound: Arc<Bound>,
    _sweeper: TaskGuard,
}

struct Entry {
    principal: String,
    job: Job,
    _work: TaskGuard,
    _place: Place,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.job.abandon();
    }
}

/// One of the places that the bound counts.
struct Place(Arc<Bound>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.release(1);
    }
}

impl Jobs {
    pub fn new(ctx: &NodeCtx) -> Self {
        let all: Arc<Mutex<BTreeMap<JobId, Entry>>> = Arc::default();
        let swept = Arc::downgrade(&all);
        let sweeper = TaskGuard::control(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(all) = swept.upgrade() else { return };
                let over = sweep(&mut all.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
                drop(over);
            }
        });
        Self { all, bound: ctx.bounds.open("coordinator.jobs_max", "", JOBS_MAX), _sweeper: sweeper }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job, for its own principal or an admin: to others it is not known.
    pub fn get(&self, id: JobId, principal: &Principal) -> Option<Job> {
        let all = self.lock();
        let entry = all.get(&id).filter(|entry| entry.principal == principal.id || principal.is_admin())?;
        Some(entry.job.clone())
    }

    /// Begins a job, unless it has been begun. GL5001 if there is no place for it.
    pub fn begin(
        &self,
        ctx: &NodeCtx,
        id: JobId,
        principal: &Principal,
        starting: impl Future<Output = Result<RunningStatement>> + Send + 'static,
    ) -> Result<Job> {
        let mut all = self.lock();
        if let Some(known) = all.get(&id) {
            return match known.principal == principal.id {
                true => Ok(known.job.clone()),
                false => Err(MeshError::new(ErrorCode::Denied, "the job is another principal's")),
            };
        }
        if !self.bound.reserve(1) {
            let longest_idle = all.iter().filter_map(|(id, e)| Some((e.job.idle_since()?, *id))).min();
            let Some((_, idle)) = longest_idle else {
                let message = format!("{JOBS_MAX} statements run in the background already");
                return Err(MeshError::new(ErrorCode::QueueFull, message));
            };
            all.remove(&idle);
            self.bound.take(1);
        }
        let job = Job::new(ctx.spill.file());
        let runs = job.clone();
        let work = TaskGuard::query(&ctx.seams, async move {
            let running = runs.clone();
            let ran = async {
                running.run(starting).await;
                Ok(())
            };
            if let Err(error) = caught("a job", ran).await {
                runs.run(async { Err(error) }).await;
            }
        });
        let place = Place(self.bound.clone());
        all.insert(id, Entry { principal: principal.id.clone(), job: job.clone(), _work: work, _place: place });
        Ok(job)
    }

    /// Stops a job and forgets its rows. False if it is not known here, or is another's.
    pub fn forget(&self, id: JobId, principal: &Principal) -> bool {
        if self.get(id, principal).is_none() {
            return false;
        }
        let entry = self.lock().remove(&id);
        entry.is_some()
    }
}

fn sweep(all: &mut BTreeMap<JobId, Entry>, now: Instant) -> Vec<Entry> {
    let long_ago = |entry: &Entry| entry.job.idle_since().is_some_and(|since| now.duration_since(since) >= KEPT_MAX);
    let over: Vec<JobId> = all.iter().filter(|(_, entry)| long_ago(entry)).map(|(id, _)| *id).collect();
    over.iter().filter_map(|id| all.remove(id)).collect()
}
