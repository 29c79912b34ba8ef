//! Huawei's public traces of cold starts (*Serverless Cold Starts and Where to Find Them*, EuroSys 2025).
//!
//! The tables are comma-separated and have a header. Times and costs are numbers. Their unit is not in the tables, so
//! [`arrivals`] takes it from who knows where the data is from.

use super::csv::Table;
use super::{Error, Record, Trace};

/// A line of the table of cold starts.
#[derive(Clone, Debug, PartialEq)]
pub struct ColdStart {
    /// Day and time, as they stand there.
    pub day: f64,
    /// The time within the trace.
    pub time: f64,
    /// The cluster.
    pub cluster: String,
    /// The function.
    pub function: String,
    /// The pod that was started.
    pub pod: String,
    /// Its parts: finding a pod, its code, what that depends on, and deciding.
    pub pod_allocation: f64,
    /// See `pod_allocation`.
    pub deploy_code: f64,
    /// See `pod_allocation`.
    pub deploy_dependency: f64,
    /// See `pod_allocation`.
    pub scheduling: f64,
    /// All of it.
    pub total: f64,
}

/// The unit of a table's numbers, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Units {
    /// Of times.
    pub time_seconds: f64,
    /// Of costs.
    pub cost_seconds: f64,
}

/// Reads the table of cold starts.
///
/// # Errors
/// If a column is missing or a value is no number.
pub fn cold_starts(text: &str) -> Result<Vec<ColdStart>, Error> {
    let columns = [
        "day",
        "time",
        "clusterName",
        "funcName",
        "podID",
        "podAllocationCost",
        "deployCodeCost",
        "deployDependencyCost",
        "schedulingCost",
        "totalCost_cold_start",
    ];
    let table = Table::parse(text, &columns)?;
    let rows = table.rows().map(|row| {
        Ok(ColdStart {
            day: row.number("day")?,
            time: row.number("time")?,
            cluster: row.text("clusterName").to_owned(),
            function: row.text("funcName").to_owned(),
            pod: row.text("podID").to_owned(),
            pod_allocation: row.number("podAllocationCost")?,
            deploy_code: row.number("deployCodeCost")?,
            deploy_dependency: row.number("deployDependencyCost")?,
            scheduling: row.number("schedulingCost")?,
            total: row.number("totalCost_cold_start")?,
        })
    });
    rows.collect()
}

/// Reads the table of requests as a trace: a function is a job, and `time_worker` and `runtimeCost` say when and for
/// how long. It begins with the first request.
///
/// # Errors
/// If a column is missing or a value is no number.
pub fn arrivals(text: &str, units: Units) -> Result<Trace, Error> {
    let table = Table::parse(text, &["time_worker", "funcName", "runtimeCost"])?;
    let rows = table.rows().map(|row| {
        Ok(Record::Arrival {
            seconds: row.number("time_worker")? * units.time_seconds,
            job: row.text("funcName").to_owned(),
            service_seconds: row.number("runtimeCost")? * units.cost_seconds,
        })
    });
    let mut records = rows.collect::<Result<Vec<_>, _>>()?;
    let first = records
        .iter()
        .map(Record::seconds)
        .fold(f64::INFINITY, f64::min);
    for record in &mut records {
        if let Record::Arrival { seconds, .. } = record {
            *seconds -= first;
        }
    }
    Ok(Trace::new(records))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made up: the schema is real, the values are not.
    const COLD_STARTS: &str = "\
day,time,clusterName,funcName,userID,requestID,podID,podAllocationCost,deployCodeCost,deployDependencyCost,schedulingCost,totalCost_cold_start
0,12.5,c1,f-7,u1,r1,p1,0.4,0.2,0.1,0.3,1.0
0,13.0,c1,f-8,u1,r2,p2,2,0,1.5,0.5,4
";
    const REQUESTS: &str = "\
day,time_worker,clusterName,funcName,runtimeCost,workerCost,busCost,frontendCost,cpu_usage,memory_usage,requestBodySize
0,2000,c1,f-7,150,160,170,180,0.1,12,100
0,1000,c1,f-8,50,60,70,80,0.1,12,100
";

    #[test]
    fn the_schema_is_read() {
        let starts = cold_starts(COLD_STARTS).unwrap();
        assert_eq!(starts.len(), 2);
        assert_eq!(starts[1].function, "f-8");
        for start in starts {
            let parts = start.pod_allocation
                + start.deploy_code
                + start.deploy_dependency
                + start.scheduling;
            assert!((parts - start.total).abs() < 1e-9);
        }
        let milliseconds = Units {
            time_seconds: 0.001,
            cost_seconds: 0.001,
        };
        let trace = arrivals(REQUESTS, milliseconds).unwrap();
        let wanted = [(0.0, "f-8", 0.05), (1.0, "f-7", 0.15)];
        for (record, (seconds, job, service)) in trace.records().iter().zip(wanted) {
            let arrival = Record::Arrival {
                seconds,
                job: job.to_owned(),
                service_seconds: service,
            };
            assert_eq!(*record, arrival);
        }
    }

    #[test]
    fn a_wrong_table_is_told() {
        let error = cold_starts(REQUESTS).unwrap_err().to_string();
        assert!(
            error.starts_with("line 1: there is no column time;"),
            "{error}"
        );
    }
}
