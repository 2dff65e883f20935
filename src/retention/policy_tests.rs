use super::*;
use proptest::prelude::*;

const DAY: i64 = 86_400;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn info(id: &str, created: Timestamp) -> SnapshotInfo {
    SnapshotInfo {
        id: id.to_owned(),
        created,
        last_modified: created,
        pipeline: "docs".to_owned(),
        tags: Vec::new(),
        documents: 100,
        chunks: 1000,
        good: true,
    }
}

fn kept(snapshots: &[SnapshotInfo], rules: &[Rule], now: Timestamp) -> Vec<String> {
    decide(snapshots, rules, Group::Pipeline, now).into_iter().filter(Decision::kept).map(|d| d.id).collect()
}

/// One a day, the newest an hour before now; `0` is the newest.
fn daily(now: Timestamp, n: i64) -> Vec<SnapshotInfo> {
    (0..n).map(|i| info(&format!("{i}"), now - SignedDuration::from_secs(3600 + i * DAY))).collect()
}

#[test]
fn each_rule_keeps_what_it_says() {
    let now = at("2026-11-25T12:00:00Z");
    let all = daily(now, 800);
    let ids = |rules: &[Rule]| kept(&all, rules, now);
    assert_eq!(ids(&[Rule::Last(3)]), ["0", "1", "2"]);
    assert_eq!(ids(&[Rule::Every(Interval::Daily, 2)]), ["0", "1"]);
    // 25 November 2026 is a Wednesday: Sundays before it are 22, 15.
    assert_eq!(ids(&[Rule::Every(Interval::Weekly, 3)]), ["0", "3", "10"]);
    assert_eq!(ids(&[Rule::Every(Interval::Monthly, 3)]), ["0", "25", "56"]);
    assert_eq!(ids(&[Rule::Every(Interval::Yearly, 3)]), ["0", "329", "694"]);
    assert_eq!(ids(&[Rule::Within(SignedDuration::from_secs(2 * DAY))]), ["0", "1"]);
    assert_eq!(ids(&[]), ["0"], "the last good one is always kept");
    assert_eq!(ids(&preset("90d").unwrap()).len(), 30 + 13 - 5);
    // Hours: several in one, across midnight.
    let hours: Vec<_> = ["T00:50:00Z", "T00:10:00Z"].map(|t| info(t, at(&format!("2026-11-25{t}")))).to_vec();
    assert_eq!(kept(&hours, &[Rule::Every(Interval::Hourly, 5)], now), ["T00:50:00Z"]);
    // 1 January 2027 lies in the ISO week of 31 December 2026.
    let turn: Vec<_> = ["2027-01-01T10:00:00Z", "2026-12-31T10:00:00Z"].map(|t| info(t, at(t))).to_vec();
    assert_eq!(kept(&turn, &[Rule::Every(Interval::Weekly, 5)], at("2027-01-02T00:00:00Z")), ["2027-01-01T10:00:00Z"]);
}

#[test]
fn within_counts_from_now_and_not_from_the_newest() {
    let now = at("2026-11-25T12:00:00Z");
    let mut all = daily(now, 100);
    all.drain(..50);
    let rules = [Rule::Within(SignedDuration::from_secs(30 * DAY))];
    assert_eq!(kept(&all, &rules, now), ["50"], "nothing is within; the last good one stays");
    // A machine whose clock is years behind: the store knows better.
    let mut behind = info("behind", at("1999-01-01T00:00:00Z"));
    behind.last_modified = now;
    all.push(behind);
    assert!(kept(&all, &rules, now).contains(&"behind".to_owned()));
}

#[test]
fn snapshots_of_the_future_neither_count_nor_go() {
    let now = at("2026-11-25T12:00:00Z");
    let mut all = daily(now, 5);
    for i in 0..10 {
        all.push(info(&format!("future {i}"), now + SignedDuration::from_secs(DAY * (i + 1))));
    }
    let decisions = decide(&all, &[Rule::Last(2)], Group::Pipeline, now);
    let ids: Vec<_> = decisions.iter().filter(|d| d.kept()).map(|d| d.id.as_str()).collect();
    assert_eq!(ids.len(), 12);
    assert_eq!(&ids[..2], ["0", "1"]);
    assert!(decisions[5..].iter().all(|d| d.suspicious.is_some()));
    // Clocks that differ by minutes are no reason.
    let near = [info("near", now + SignedDuration::from_secs(300)), info("old", now - SignedDuration::from_secs(DAY))];
    assert_eq!(kept(&near, &[Rule::Last(1)], now), ["near"]);
}

#[test]
fn snapshots_that_look_like_garbage_fill_no_place() {
    let now = at("2026-11-25T12:00:00Z");
    let good = daily(now, 10);
    type Spoil = fn(&mut SnapshotInfo);
    let spoils: [Spoil; 4] = [|s| s.documents = 0, |s| s.chunks = 400, |s| s.documents = 49, |s| s.good = false];
    for spoil in spoils {
        let mut all = good.clone();
        for i in 0..200 {
            let mut garbage = info(&format!("garbage {i}"), now - SignedDuration::from_secs(i * 600));
            spoil(&mut garbage);
            // An attacker can date, but cannot set the store's clock.
            garbage.last_modified = now;
            all.push(garbage);
        }
        for rule in [Rule::Last(5), Rule::Every(Interval::Daily, 5), Rule::Every(Interval::Hourly, 5)] {
            let before = kept(&good, std::slice::from_ref(&rule), now);
            let after = kept(&all, std::slice::from_ref(&rule), now);
            assert!(before.iter().all(|id| after.contains(id)), "{rule}: {before:?} {after:?}");
        }
    }
}

#[test]
fn a_fall_that_lasts_is_believed_in_time() {
    let now = at("2026-11-25T12:00:00Z");
    let mut all = daily(now, 100);
    all.iter_mut().take(40).for_each(|s| s.documents = 10);
    let decisions = decide(&all, &[Rule::Last(3)], Group::Pipeline, now);
    // The last 10 are ordinary again: 30 days after the first of the fall.
    assert!(decisions[0].suspicious.is_none() && decisions[9].suspicious.is_none());
    assert!(decisions[10].suspicious.is_some() && decisions[39].suspicious.is_some());
    assert!(decisions[40].suspicious.is_none());
    assert_eq!(kept(&all, &[Rule::Last(3)], now), ["0", "1", "2"]);
    // While it is not, the last three from before it stay as well.
    all.drain(..20);
    assert_eq!(kept(&all, &[Rule::Last(3)], now), ["20", "21", "22", "40", "41", "42"]);
}

#[test]
fn settings_become_rules_and_wrong_ones_are_refused() {
    let settings = RetentionSettings {
        preset: Some("365d".into()),
        keep_last: 2,
        keep_hourly: 3,
        keep_yearly: 4,
        keep_within: Some("12h".into()),
        keep_tags: vec!["release".into()],
        ..Default::default()
    };
    let texts: Vec<_> = rules(&settings).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        ["within 30d", "weekly 13", "monthly 12", "last 2", "hourly 3", "yearly 4", "within 12h", "tag release"]
    );
    assert!(rules(&RetentionSettings::default()).unwrap().is_empty());
    for wrong in [
        RetentionSettings { preset: Some("7d".into()), ..Default::default() },
        RetentionSettings { keep_within: Some("6m".into()), ..Default::default() },
        RetentionSettings { keep_within: Some("soon".into()), ..Default::default() },
    ] {
        assert_eq!(rules(&wrong).unwrap_err().kind(), ErrorKind::Configuration);
    }
}

/// Seconds around a fixed now, coarse enough for collisions.
fn snapshots() -> impl Strategy<Value = Vec<SnapshotInfo>> {
    let one = (-200i64..30, 0u64..4, 0u64..4, any::<bool>(), 0usize..2, 0usize..3);
    prop::collection::vec(one, 0..40).prop_map(|all| {
        type Fields = (usize, (i64, u64, u64, bool, usize, usize));
        let make = |(i, (hours, documents, chunks, good, pipeline, tag)): Fields| {
            let created = at("2026-11-25T12:00:00Z") + SignedDuration::from_secs(hours * 9 * 3600 + i as i64);
            SnapshotInfo {
                pipeline: ["a", "b"][pipeline].to_owned(),
                tags: if tag == 0 { vec!["t".to_owned()] } else { Vec::new() },
                documents: documents * 10,
                chunks: chunks * 100,
                good,
                ..info(&format!("{i:02}"), created)
            }
        };
        all.into_iter().enumerate().map(make).collect()
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    prop_oneof![
        (1u32..6).prop_map(Rule::Last),
        (0usize..5, 1u32..6).prop_map(|(i, n)| Rule::Every(Interval::ALL[i], n)),
        (1i64..60).prop_map(|d| Rule::Within(SignedDuration::from_secs(d * DAY))),
        Just(Rule::Tag("t".to_owned())),
    ]
}

/// As slow and plain as it can be said.
fn naive(all: &[SnapshotInfo], rules: &[Rule], now: Timestamp) -> BTreeSet<String> {
    let mut kept = BTreeSet::new();
    for pipeline in ["a", "b"] {
        let past = |s: &&SnapshotInfo| s.pipeline == pipeline && s.created <= now + TOLERANCE;
        let mut group: Vec<&SnapshotInfo> = all.iter().filter(past).collect();
        group.sort_by_key(|s| (s.created, s.id.clone()));
        let odd = {
            let indexes: Vec<usize> =
                group.iter().rev().map(|s| all.iter().position(|x| x.id == s.id).unwrap()).collect();
            not_ordinary(all, &indexes).into_keys().map(|i| all[i].id.clone()).collect::<BTreeSet<_>>()
        };
        let ordinary: Vec<&SnapshotInfo> = group.iter().copied().filter(|s| !odd.contains(&s.id)).collect();
        for members in [&group, &ordinary] {
            for rule in rules {
                let unit = |s: &SnapshotInfo| -> String {
                    match rule {
                        Rule::Every(interval, _) => {
                            let z = s.created.to_zoned(TimeZone::UTC);
                            z.strftime(match interval {
                                Interval::Hourly => "%Y-%m-%d %H",
                                Interval::Daily => "%Y-%m-%d",
                                Interval::Weekly => "%G-%V",
                                Interval::Monthly => "%Y-%m",
                                Interval::Yearly => "%Y",
                            })
                            .to_string()
                        }
                        _ => s.id.clone(),
                    }
                };
                let (Rule::Last(n) | Rule::Every(_, n)) = rule else { continue };
                for (i, s) in members.iter().enumerate() {
                    let later = &members[i + 1..];
                    let newer_units: BTreeSet<String> =
                        later.iter().map(|l| unit(l)).filter(|u| *u != unit(s)).collect();
                    if !later.iter().any(|l| unit(l) == unit(s)) && newer_units.len() < *n as usize {
                        kept.insert(s.id.clone());
                    }
                }
            }
        }
        kept.extend(group.iter().rev().find(|s| s.good).map(|s| s.id.clone()));
        kept.extend(ordinary.last().map(|s| s.id.clone()));
    }
    for s in all {
        let single = rules.iter().any(|rule| match rule {
            Rule::Within(span) => s.created + *span >= now,
            Rule::Tag(tag) => s.tags.contains(tag),
            _ => false,
        });
        if single || s.created > now + TOLERANCE {
            kept.insert(s.id.clone());
        }
    }
    kept
}

proptest! {
    #[test]
    fn as_the_naive_model(all in snapshots(), rules in prop::collection::vec(rule(), 0..5)) {
        let now = at("2026-11-25T12:00:00Z");
        let kept: BTreeSet<String> = kept(&all, &rules, now).into_iter().collect();
        prop_assert_eq!(kept, naive(&all, &rules, now));
    }

    #[test]
    fn more_rules_keep_more(all in snapshots(), rules in prop::collection::vec(rule(), 0..5), more in rule()) {
        let now = at("2026-11-25T12:00:00Z");
        let before = kept(&all, &rules, now);
        let mut rules = rules;
        rules.push(more);
        let after = kept(&all, &rules, now);
        prop_assert!(before.iter().all(|id| after.contains(id)));
    }

    #[test]
    fn nothing_that_is_added_takes_from_what_is_within(all in snapshots(), added in snapshots(), days in 1i64..60) {
        let now = at("2026-11-25T12:00:00Z");
        let span = SignedDuration::from_secs(days * DAY);
        let mut both = all.clone();
        both.extend(added.into_iter().map(|s| SnapshotInfo { id: format!("added {}", s.id), ..s }));
        let after = kept(&both, &[Rule::Within(span)], now);
        for snapshot in all.iter().filter(|s| now.duration_since(s.created) <= span) {
            prop_assert!(after.contains(&snapshot.id));
        }
    }

    #[test]
    fn the_last_good_one_of_each_pipeline_is_kept(all in snapshots(), rules in prop::collection::vec(rule(), 0..4)) {
        let now = at("2026-11-25T12:00:00Z");
        let after = kept(&all, &rules, now);
        for pipeline in ["a", "b"] {
            let good = all.iter().filter(|s| s.pipeline == pipeline && s.good);
            if good.clone().next().is_some() {
                prop_assert!(good.clone().any(|s| after.contains(&s.id)));
            }
        }
    }

    #[test]
    fn what_was_decided_once_is_decided_again(all in snapshots(), rules in prop::collection::vec(rule(), 0..5)) {
        let now = at("2026-11-25T12:00:00Z");
        // All are ordinary here: which ones are can change with what is gone.
        let plain = |s: SnapshotInfo| SnapshotInfo { documents: 10, chunks: 100, good: true, ..s };
        let all: Vec<_> = all.into_iter().map(plain).collect();
        let once = kept(&all, &rules, now);
        let left: Vec<_> = all.into_iter().filter(|s| once.contains(&s.id)).collect();
        prop_assert_eq!(kept(&left, &rules, now), once);
    }
}
