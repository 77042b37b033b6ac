use super::*;
use crate::tallies::Came;
use http::Method;

fn document(verb: &'static str) -> Counted {
    Counted { verb, subresource: "/healthz".into(), scope: "", component: "", dry_run: "" }
}

#[test]
fn answers_that_ended_otherwise_are_one_series_of_durations() {
    let metrics = Metrics::new(SystemTime::UNIX_EPOCH);
    for (verb, code) in [("get", 200), ("get", 404), ("watch", 200)] {
        metrics.end(None, document(verb), Became { code, took: Duration::from_millis(30), ..Became::default() });
    }
    let mut text = String::new();
    metrics.requests(&mut text);
    let counts = |name: &str| text.lines().filter(|line| line.starts_with(name)).map(|line| line.rsplit(' ').next().unwrap_or_default()).collect::<Vec<_>>();
    assert_eq!(counts("apiserver_request_total{"), ["1", "1", "1"]);
    assert_eq!(counts("apiserver_request_duration_seconds_count"), ["2", "1"]);
    assert_eq!(counts("apiserver_request_sli_duration_seconds_count"), ["2"]);
    let bounds = |name: &str| text.lines().filter(|line| line.starts_with(name) && line.contains("GET")).count();
    assert_eq!((bounds("apiserver_request_duration_seconds_bucket"), bounds("apiserver_request_sli_duration_seconds_bucket")), (24, 22));
    let mut told = String::new();
    build(&mut told);
    assert!(told.contains("git_version=\"v1.") && told.ends_with("} 1\n"), "{told}");
}

#[test]
fn an_answer_is_counted_by_its_size_and_by_who_ended_it() {
    let metrics = Metrics::new(SystemTime::UNIX_EPOCH);
    let get = || document("get");
    metrics.end(None, get(), Became { code: 200, bytes: Some(2_000), ..Became::default() });
    metrics.end(None, get(), Became { code: 504, is_ended: true, ..Became::default() });
    metrics.sized(None, get(), 200, 2_000_000);
    let unknown = Counted { subresource: String::new(), ..get() };
    metrics.end(None, unknown, Became { code: 404, ..Became::default() });
    let mut text = String::new();
    metrics.requests(&mut text);
    let of = r#"component="",group="",resource="",scope="",subresource="/healthz",verb="GET",version="""#;
    for line in [
        format!(r#"apiserver_response_sizes_bucket{{{of},le="1000"}} 0"#),
        format!(r#"apiserver_response_sizes_bucket{{{of},le="10000"}} 1"#),
        format!(r#"apiserver_response_sizes_bucket{{{of},le="1e+07"}} 2"#),
        format!("apiserver_response_sizes_sum{{{of}}} 2002000"),
        format!(r#"apiserver_request_terminations_total{{code="504",{of}}} 1"#),
    ] {
        assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
    }
    assert!(!text.contains("404"), "{text}");
}

#[test]
fn what_is_written_and_watched_is_told_by_resource() {
    let row = |api_version: &str| {
        let mut all = machinery::resources::builtin().iter();
        let resource = all.find(|known| known.resource == "horizontalpodautoscalers" && known.api_version() == api_version).expect("a resource");
        Row::builtin(resource).expect("a row")
    };
    let (one, two) = (row("autoscaling/v1"), row("autoscaling/v2"));
    for (row, done, came) in
        [(&one, Done::Create, Came::Written), (&two, Done::Create, Came::Written), (&two, Done::Update, Came::Failed), (&two, Done::Update, Came::Nothing)]
    {
        row.labels().written.note(done, came, Duration::from_millis(30));
    }
    [500, 2000].into_iter().for_each(|bytes| two.labels().watched.note(bytes));
    let (mut text, served) = (String::new(), [one.labels(), two.labels()]);
    [&one, &two, &two].into_iter().for_each(|row| row.labels().watched.leave_behind());
    written(&mut text, &served);
    watched(&mut text, &served);
    left_behind(&mut text, &served);
    for line in [
        r#"etcd_requests_total{group="autoscaling",operation="create",resource="horizontalpodautoscalers"} 2"#,
        r#"etcd_request_errors_total{group="autoscaling",operation="update",resource="horizontalpodautoscalers"} 1"#,
        r#"etcd_request_duration_seconds_bucket{group="autoscaling",operation="create",resource="horizontalpodautoscalers",le="0.025"} 0"#,
        r#"etcd_request_duration_seconds_bucket{group="autoscaling",operation="create",resource="horizontalpodautoscalers",le="0.05"} 2"#,
        r#"apiserver_storage_events_received_total{group="autoscaling",resource="horizontalpodautoscalers"} 2"#,
        r#"apiserver_terminated_watchers_total{group="autoscaling",resource="horizontalpodautoscalers"} 3"#,
        r#"apiserver_watch_events_total{group="autoscaling",resource="horizontalpodautoscalers",version="v2"} 2"#,
        r#"apiserver_watch_events_sizes_bucket{group="autoscaling",resource="horizontalpodautoscalers",version="v2",le="1024"} 1"#,
        r#"apiserver_watch_events_sizes_sum{group="autoscaling",resource="horizontalpodautoscalers",version="v2"} 2500"#,
    ] {
        assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
    }
    assert!(!text.contains(r#"errors_total{group="autoscaling",operation="create""#) && !text.contains(r#"version="v1""#), "{text}");
}

/// Two samples of the same names would be a text that nobody reads.
#[test]
fn a_definition_that_is_made_again_is_counted_on() {
    let metrics = Metrics::new(SystemTime::UNIX_EPOCH);
    let resource = machinery::resources::builtin().iter().find(|known| known.resource == "leases").expect("a resource");
    let rows = [(); 2].map(|()| Arc::new(Row::builtin(resource).expect("a row")));
    let list = || Counted { verb: "list", subresource: String::new(), scope: "cluster", component: COMPONENT, dry_run: "" };
    for row in &rows {
        metrics.end(Some(row), list(), Became { code: 200, ..Became::default() });
    }
    let _open = [&rows[0], &rows[1], &rows[1]].map(|row| metrics.last(Some(row), list()));
    let mut text = String::new();
    metrics.requests(&mut text);
    metrics.gauges(&mut text);
    for (name, count) in [("apiserver_request_total{", "2"), ("apiserver_request_duration_seconds_count{", "2"), ("apiserver_longrunning_requests{", "3")] {
        let told: Vec<_> = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next()).collect();
        assert_eq!(told, [count], "{name}");
    }
}

#[test]
fn the_text_is_told_as_what_is_accepted_first() {
    let escaping = |accept: &str| {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().expect("a value"))]);
        media(&headers).strip_prefix("text/plain; version=0.0.4; charset=utf-8; escaping=").expect("a text")
    };
    // What Prometheus sends since its third version.
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,\
                      text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for (accept, told) in [
        (prometheus, "allow-utf-8"),
        ("*/*", "underscores"),
        ("text/plain", "underscores"),
        ("text/plain; escaping=values", "values"),
        ("text/plain;q=0.5, application/json;escaping=values;q=0.1", "underscores"),
        ("text/plain;escaping=snakes, text/plain;escaping=values", "underscores"),
    ] {
        assert_eq!(escaping(accept), told, "{accept}");
    }
    assert!(media(&HeaderMap::new()).ends_with("escaping=underscores"));
}

#[test]
fn families_are_asked_for_by_name() {
    let text = "# HELP a A.\n# TYPE a gauge\na 1\n# HELP ab Ab.\n# TYPE ab histogram\nab_bucket{le=\"1\"} 1\nab_count 1\n";
    let asked = |query: &str| only(text.to_owned(), &Query::parse(query));
    assert_eq!((asked(""), asked("name=a"), asked("name[]=ab_count")), (text.to_owned(), text.to_owned(), String::new()));
    assert_eq!(asked("name%5B%5D=a"), "# HELP a A.\n# TYPE a gauge\na 1\n");
    assert_eq!(asked("name[]=x&name[]=a&name[]=ab"), text);
}

#[test]
fn what_lasts_is_counted_until_it_ends() {
    let metrics = Metrics::new(SystemTime::UNIX_EPOCH);
    let watch = || metrics.last(None, Counted { subresource: String::new(), scope: "cluster", ..document("watch") });
    let told = || {
        let mut text = String::new();
        metrics.gauges(&mut text);
        text.lines().find(|line| line.starts_with("apiserver_longrunning_requests{")).map(str::to_owned)
    };
    let (first, second) = (watch(), watch());
    assert!(told().is_some_and(|line| line.contains(r#"scope="cluster",subresource="",verb="WATCH""#) && line.ends_with("} 2")));
    drop(first);
    assert!(told().is_some_and(|line| line.ends_with("} 1")));
    drop(second);
    assert_eq!(told(), None);
}

#[test]
fn requests_are_counted_by_verb_and_scope_as_upstream_names_them() {
    let counted = |method: Method, uri: &str, media: &str| {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media.parse().expect("a value"))]);
        let counted = Counted::of(&RequestInfo::parse(&method, uri, &Query::default()), None, &Query::default(), &headers);
        (counted.verb(), counted.scope)
    };
    let pods = "/api/v1/namespaces/n/pods";
    for (method, uri, verb, scope) in [
        (Method::GET, pods, "LIST", "namespace"),
        (Method::GET, "/api/v1/pods", "LIST", "cluster"),
        (Method::POST, pods, "POST", "resource"),
        (Method::DELETE, pods, "DELETE", "namespace"),
        (Method::HEAD, "/healthz", "GET", ""),
        (Method::OPTIONS, "/healthz", "OTHER", ""),
    ] {
        assert_eq!(counted(method, uri, "application/json"), (verb.to_owned(), scope), "{uri}");
    }
    assert_eq!(counted(Method::PATCH, "/api/v1/nodes/n", "application/apply-patch+yaml").0, "APPLY");
    let odd = RequestInfo::parse(&Method::GET, "/api/v1/nodes/n/a%22%0Ab", &Query::default());
    assert_eq!((odd.subresource.as_str(), Counted::of(&odd, None, &Query::default(), &HeaderMap::new()).subresource.as_str()), ("a\"\nb", ""));
    let tried = |query: &str| Counted::of(&RequestInfo::parse(&Method::POST, pods, &Query::default()), None, &Query::parse(query), &HeaderMap::new()).dry_run;
    assert_eq!((tried(""), tried("dryRun=All&dryRun=All"), tried("dryRun=All&dryRun=x")), ("", "All", "invalid"));
    let told = |path: &str| {
        let counted = Counted::of(&RequestInfo::parse(&Method::GET, path, &Query::default()), None, &Query::default(), &HeaderMap::new());
        (counted.component, counted.subresource)
    };
    assert_eq!((told("/readyz"), told("/openapi/v3/api/v1")), (("", "/readyz".to_owned()), ("", "openapi/v3/".to_owned())));
    assert_eq!((told("/apis"), told("/readyz/etcd")), (("apiserver", "/apis".to_owned()), ("apiserver", String::new())));
}

#[test]
fn checks_of_health_are_told_by_name_and_path() {
    let metrics = Metrics::new(SystemTime::UNIX_EPOCH);
    for held in [true, true, false] {
        metrics.checked("etcd", "readyz", held);
    }
    metrics.checked("ping", "livez", true);
    let text = metrics.checks();
    for line in [
        "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.",
        r#"kubernetes_healthcheck{name="etcd",type="readyz"} 0"#,
        r#"kubernetes_healthchecks_total{name="etcd",status="error",type="readyz"} 1"#,
        r#"kubernetes_healthchecks_total{name="etcd",status="success",type="readyz"} 2"#,
        r#"kubernetes_healthcheck{name="ping",type="livez"} 1"#,
    ] {
        assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
    }
    assert!(!text.contains(r#"name="ping",status="error""#));
}
