//! Tenants and acl: counts per name, and that nobody sees what belongs to others.

use serde_json::{Value, json};

use super::check::{Check, some_of};
use super::latency::Searcher;
use super::survey::{Groups, Survey};
use super::{Result, ValidationInput};
use crate::targets::{Condition, Filter, field};

/// Other names' vectors with which each name searches.
const FOREIGN: usize = 3;
/// Faults that a reason lists.
const LISTED: usize = 3;
/// A name nobody has: it must see nothing.
const NOBODY: &str = "regrow-validation: nobody has this name";

/// How a field is filtered and what a point must hold to pass.
struct Scope {
    name: &'static str,
    /// What one of its names is called: `tenant`.
    one: &'static str,
    filter: fn(&str) -> Filter,
    holds: fn(&Value, &str) -> bool,
    field: &'static str,
}

const TENANT: Scope = Scope {
    name: "tenants",
    one: "tenant",
    filter: Filter::tenant,
    holds: |value, name| value.as_str() == Some(name),
    field: field::TENANT,
};

const ACL: Scope = Scope {
    name: "acl",
    one: "principal",
    filter: |name| Filter { all: vec![Condition::AnyOf { field: field::ACL.to_owned(), values: vec![name.into()] }] },
    holds: |value, name| value.as_array().is_some_and(|all| all.iter().any(|v| v.as_str() == Some(name))),
    field: field::ACL,
};

/// `tenants`: counts per tenant are those of the vector set, and a search as A never returns what is B's.
pub(super) async fn tenants(input: &ValidationInput<'_>, searcher: &Searcher<'_>, survey: &Survey) -> Result<Check> {
    check(input, searcher, &survey.tenants, &TENANT).await
}

/// `acl`: the same for principals, by an any-of filter.
pub(super) async fn acl(input: &ValidationInput<'_>, searcher: &Searcher<'_>, survey: &Survey) -> Result<Check> {
    check(input, searcher, &survey.principals, &ACL).await
}

async fn check(input: &ValidationInput<'_>, searcher: &Searcher<'_>, groups: &Groups, scope: &Scope) -> Result<Check> {
    let all = &groups.groups;
    if all.is_empty() {
        return Ok(Check::skipped(scope.name, format!("no chunk has a {}", scope.one)));
    }
    let (mut counts, mut leaks, mut blind) = (Vec::new(), Vec::new(), Vec::new());
    let mut searches = 0u64;
    for (i, group) in all.iter().enumerate() {
        let filter = (scope.filter)(&group.name);
        let counted = input.target.count(input.collection, &filter).await?;
        if counted != group.count {
            counts.push(format!("{} has {counted} points instead of {}", group.name, group.count));
        }
        // Its own vectors, and those of the names that follow, in a circle.
        let foreign = (1..all.len()).take(FOREIGN).filter_map(|step| all[(i + step) % all.len()].vectors.first());
        for vector in group.vectors.iter().take(1).chain(foreign) {
            let found = searcher.search(vector, input.settings.k, &filter).await?;
            searches += 1;
            if found.is_empty() {
                blind.push(format!("{} finds nothing", group.name));
            }
            for point in found {
                let value = point.payload.get(scope.field).unwrap_or(&Value::Null);
                if !(scope.holds)(value, &group.name) {
                    leaks.push(format!("a search as {} returned {} of {value}", group.name, point.id));
                }
            }
        }
    }
    let nobody = (scope.filter)(NOBODY);
    let counted = input.target.count(input.collection, &nobody).await?;
    if counted > 0 {
        counts.push(format!("a {} that does not exist has {counted} points", scope.one));
    }
    if let Some(vector) = all.iter().find_map(|g| g.vectors.first()) {
        searches += 1;
        for point in searcher.search(vector, input.settings.k, &nobody).await? {
            leaks.push(format!("a {} that does not exist was shown {}", scope.one, point.id));
        }
    }

    let measured = json!({
        "checked": all.len(),
        "searches": searches,
        "wrong_counts": counts.len(),
        "leaks": leaks.len(),
        "empty_searches": blind.len(),
    });
    let expected = json!({"wrong_counts": 0, "leaks": 0, "empty_searches": 0});
    let faults: Vec<&String> = leaks.iter().chain(&counts).chain(&blind).collect();
    let reason = if !faults.is_empty() {
        some_of(&faults, LISTED)
    } else if groups.more {
        format!("counts and isolation hold for {} sampled {}s", all.len(), scope.one)
    } else {
        format!("counts and isolation hold for every {}", scope.one)
    };
    Ok(Check::judge(scope.name, faults.is_empty(), measured, expected, reason))
}
