use std::{
    fs,
    time::{Duration, Instant},
};

use simclr_fetch::{FetchError, Hash, Origin, Status};
use tempfile::tempdir;

use crate::{
    bytes, file, names, quietly,
    server::{Answer, Request, Server},
};

/// The failures of a download for which no address worked.
fn failures(error: FetchError) -> Vec<FetchError> {
    match error {
        FetchError::Unavailable { failures, .. } => failures.into_iter().map(|failure| failure.cause).collect(),
        error => panic!("{error}"),
    }
}

#[test]
fn whole_file_then_nothing_more_to_do() {
    let (dir, body) = (tempdir().unwrap(), bytes(200_000));
    let server = Server::start(vec![Answer { body: body.clone(), ..Answer::default() }]);
    let source = file(&body, &[&server.url]);
    let mut seen = Vec::new();
    let outcome =
        simclr_fetch::fetch_source(&source, dir.path(), None, &mut |done, total| seen.push((done, total))).unwrap();
    assert_eq!(outcome.path, dir.path().join("file.bin"));
    assert_eq!(outcome.status, Status::Downloaded { url: server.url.clone(), bytes: 200_000 });
    assert_eq!(fs::read(&outcome.path).unwrap(), body);
    assert_eq!(names(dir.path()), ["file.bin"]);
    assert_eq!((seen[0], seen[seen.len() - 1]), ((0, Some(200_000)), (200_000, Some(200_000))));
    assert!(seen.is_sorted());
    assert_eq!(server.requests(), [Request::default()]);

    // The server is gone: what is complete needs none.
    let again = quietly(&source, dir.path(), None).unwrap();
    assert_eq!((again.path, again.status), (outcome.path, Status::AlreadyComplete));
}

#[test]
fn a_cut_connection_is_resumed_at_once() {
    let (dir, body) = (tempdir().unwrap(), bytes(200_000));
    let answer = Answer { body: body.clone(), etag: Some("\"v1\""), ranges: true, ..Answer::default() };
    let cut = Answer { cut_after: Some(70_001), ..answer.clone() };
    let server = Server::start(vec![cut, answer]);
    let outcome = quietly(&file(&body, &[&server.url]), dir.path(), None).unwrap();
    assert_eq!(outcome.status, Status::Downloaded { url: server.url.clone(), bytes: 200_000 });
    assert_eq!(fs::read(outcome.path).unwrap(), body);
    let resumed = Request { range: Some("bytes=70001-".into()), if_range: Some("\"v1\"".into()) };
    assert_eq!(server.requests(), [Request::default(), resumed]);
}

#[test]
fn a_later_call_goes_on_where_the_first_was_cut() {
    let (dir, body) = (tempdir().unwrap(), bytes(100_000));
    // Two cuts, the second before a single byte: the call gives up.
    let cut = |after| Answer { body: body.clone(), ranges: true, cut_after: Some(after), ..Answer::default() };
    let first = Server::start(vec![cut(30_000), cut(0)]);
    let causes = failures(quietly(&file(&body, &[&first.url]), dir.path(), None).unwrap_err());
    assert!(
        matches!(causes[..], [FetchError::Cut { received: 30_000, expected: Some(100_000), .. }]),
        "{:?}",
        causes[0].to_string()
    );
    assert_eq!(first.requests().len(), 2);
    assert_eq!(names(dir.path()), ["file.bin.part", "file.bin.part.tag"]);

    // Another address: there is no validator for it, so that the checksum of the whole decides.
    let second = Server::start(vec![Answer { body: body.clone(), ranges: true, ..Answer::default() }]);
    let outcome = quietly(&file(&body, &[&second.url]), dir.path(), None).unwrap();
    assert_eq!(outcome.status, Status::Downloaded { url: second.url.clone(), bytes: 70_000 });
    assert_eq!(fs::read(outcome.path).unwrap(), body);
    assert_eq!(names(dir.path()), ["file.bin"]);
    assert_eq!(second.requests(), [Request { range: Some("bytes=30000-".into()), if_range: None }]);
}

#[test]
fn a_server_without_ranges_starts_again() {
    let (dir, body) = (tempdir().unwrap(), bytes(50_000));
    fs::write(dir.path().join("file.bin.part"), &body[..20_000]).unwrap();
    let server = Server::start(vec![Answer { body: body.clone(), ..Answer::default() }]);
    let outcome = quietly(&file(&body, &[&server.url]), dir.path(), None).unwrap();
    assert_eq!(outcome.status, Status::Downloaded { url: server.url.clone(), bytes: 50_000 });
    assert_eq!(fs::read(outcome.path).unwrap(), body);
    assert_eq!(server.requests()[0].range.as_deref(), Some("bytes=20000-"));
}

#[test]
fn a_file_that_changed_on_the_server_starts_again() {
    let (dir, old, new) = (tempdir().unwrap(), bytes(50_000), bytes(50_001));
    let new = &new[1..];
    let server = Server::start(vec![
        Answer { body: old, etag: Some("\"old\""), ranges: true, cut_after: Some(10_000), ..Answer::default() },
        Answer { body: new.to_vec(), etag: Some("\"new\""), ranges: true, ..Answer::default() },
    ]);
    let outcome = quietly(&file(new, &[&server.url]), dir.path(), None).unwrap();
    assert_eq!(fs::read(outcome.path).unwrap(), new);
    assert_eq!(server.requests()[1].if_range.as_deref(), Some("\"old\""));
}

#[test]
fn stale_bytes_that_no_validator_caught_are_replaced() {
    let (dir, body) = (tempdir().unwrap(), bytes(50_000));
    fs::write(dir.path().join("file.bin.part"), vec![7; 20_000]).unwrap();
    let answer = Answer { body: body.clone(), ranges: true, ..Answer::default() };
    let server = Server::start(vec![answer.clone(), answer]);
    let outcome = quietly(&file(&body, &[&server.url]), dir.path(), None).unwrap();
    assert_eq!(outcome.status, Status::Downloaded { url: server.url.clone(), bytes: 80_000 });
    assert_eq!(fs::read(outcome.path).unwrap(), body);
    assert_eq!(server.requests()[1], Request::default());
}

#[test]
fn a_part_that_is_whole_already_needs_no_bytes() {
    let (dir, body) = (tempdir().unwrap(), bytes(5_000));
    fs::write(dir.path().join("file.bin.part"), &body).unwrap();
    // The size is not known: the server's 416 tells that nothing is left.
    let server = Server::start(vec![Answer { body: body.clone(), ranges: true, ..Answer::default() }]);
    let mut source = file(&body, &[&server.url]);
    source.size = None;
    let outcome = quietly(&source, dir.path(), None).unwrap();
    assert_eq!(outcome.status, Status::Downloaded { url: server.url.clone(), bytes: 0 });
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_part_longer_than_the_servers_file_starts_again() {
    let (dir, body) = (tempdir().unwrap(), bytes(5_000));
    fs::write(dir.path().join("file.bin.part"), bytes(6_000)).unwrap();
    let answer = Answer { body: body.clone(), ranges: true, ..Answer::default() };
    let server = Server::start(vec![answer.clone(), answer]);
    let mut source = file(&body, &[&server.url]);
    (source.size, source.limit) = (None, 10_000);
    assert_eq!(fs::read(quietly(&source, dir.path(), None).unwrap().path).unwrap(), body);
    assert_eq!(server.requests()[1], Request::default());
}

#[test]
fn wrong_bytes_are_removed_and_named() {
    let (dir, body) = (tempdir().unwrap(), bytes(9_000));
    let mut wrong = body.clone();
    wrong[4_500] ^= 1;
    let server = Server::start(vec![Answer { body: wrong.clone(), ..Answer::default() }]);
    let source = file(&body, &[&server.url]);
    let error = quietly(&source, dir.path(), None).unwrap_err();
    assert!(error.to_string().contains(&format!("\n  {}: ", server.url)), "{error}");
    let causes = failures(error);
    let FetchError::Checksum { hash, expected, found, .. } = &causes[0] else { panic!("{}", causes[0]) };
    assert_eq!((*hash, expected.as_str()), (Hash::Sha256, source.checksum.hex()));
    assert_eq!(found, simclr_fetch::Checksum::of(Hash::Sha256, &wrong).hex());
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
}

#[test]
fn the_next_address_is_tried_after_404_and_after_wrong_bytes() {
    let (dir, body) = (tempdir().unwrap(), bytes(9_000));
    let missing = Server::start(vec![Answer { status: Some(404), body: b"no".to_vec(), ..Answer::default() }]);
    let wrong = Server::start(vec![Answer { body: vec![0; 9_000], ..Answer::default() }]);
    let right = Server::start(vec![Answer { body: body.clone(), ..Answer::default() }]);
    let source = file(&body, &[&missing.url, &wrong.url, &right.url]);
    let outcome = quietly(&source, dir.path(), None).unwrap();
    assert_eq!(outcome.status, Status::Downloaded { url: right.url, bytes: 9_000 });
    assert_eq!(fs::read(outcome.path).unwrap(), body);
    assert_eq!(names(dir.path()), ["file.bin"]);
}

#[test]
fn every_address_that_failed_is_in_the_message() {
    let dir = tempdir().unwrap();
    let missing = Server::start(vec![Answer { status: Some(404), ..Answer::default() }]);
    let broken = Server::start(vec![Answer { status: Some(503), ..Answer::default() }]);
    let error = quietly(&file(b"x", &[&missing.url, &broken.url]), dir.path(), None).unwrap_err();
    let expected = format!(
        "cannot download file.bin:\n  {}: the server answers with status 404, expected 200 or 206\
         \n  {}: the server answers with status 503, expected 200 or 206",
        missing.url, broken.url
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn an_address_where_nobody_listens() {
    let dir = tempdir().unwrap();
    let server = Server::start(Vec::new());
    let url = server.url.clone();
    server.requests();
    let causes = failures(quietly(&file(b"x", &[&url]), dir.path(), None).unwrap_err());
    assert!(matches!(&causes[..], [FetchError::Request { url: found, .. }] if *found == url), "{}", causes[0]);
}

#[test]
fn too_many_bytes_are_not_taken() {
    let (dir, body) = (tempdir().unwrap(), bytes(300_000));
    let announced = Server::start(vec![Answer { body: body.clone(), ..Answer::default() }]);
    let endless = Server::start(vec![Answer { body: body.clone(), no_length: true, ..Answer::default() }]);
    let source = file(&body[..1_000], &[&announced.url, &endless.url]);
    let causes = failures(quietly(&source, dir.path(), None).unwrap_err());
    assert!(matches!(causes[0], FetchError::TooLong { found: 300_000, limit: 1_000, .. }), "{}", causes[0]);
    assert!(matches!(causes[1], FetchError::TooLong { limit: 1_000, .. }), "{}", causes[1]);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_short_answer_without_a_length_is_found_by_its_size() {
    let (dir, body) = (tempdir().unwrap(), bytes(9_000));
    let short = Answer { body: body.clone(), no_length: true, cut_after: Some(8_000), ..Answer::default() };
    let server = Server::start(vec![short]);
    let causes = failures(quietly(&file(&body, &[&server.url]), dir.path(), None).unwrap_err());
    assert!(matches!(causes[0], FetchError::Size { found: 8_000, expected: 9_000, .. }), "{}", causes[0]);
}

#[test]
fn another_range_than_the_one_asked_for_is_refused() {
    let (dir, body) = (tempdir().unwrap(), bytes(9_000));
    fs::write(dir.path().join("file.bin.part"), &body[..1_000]).unwrap();
    let answer =
        Answer { body: body.clone(), ranges: true, content_range: Some("bytes 0-8999/9000"), ..Answer::default() };
    let server = Server::start(vec![answer]);
    let causes = failures(quietly(&file(&body, &[&server.url]), dir.path(), None).unwrap_err());
    assert!(matches!(causes[0], FetchError::Range { asked: 1_000, .. }), "{}", causes[0]);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_damaged_file_gives_way_only_to_the_right_one() {
    let (dir, body) = (tempdir().unwrap(), bytes(9_000));
    let target = dir.path().join("file.bin");
    fs::write(&target, b"half of an old download").unwrap();
    let missing = Server::start(vec![Answer { status: Some(404), ..Answer::default() }]);
    quietly(&file(&body, &[&missing.url]), dir.path(), None).unwrap_err();
    assert_eq!(fs::read(&target).unwrap(), b"half of an old download");
    let right = Server::start(vec![Answer { body: body.clone(), ..Answer::default() }]);
    quietly(&file(&body, &[&right.url]), dir.path(), None).unwrap();
    assert_eq!(fs::read(&target).unwrap(), body);
}

#[test]
fn a_file_on_disk_goes_through_the_same_checks() {
    let (dir, body) = (tempdir().unwrap(), bytes(9_000));
    let (given, data) = (dir.path().join("given"), dir.path().join("data/inner"));
    let source = file(&body, &[]);

    fs::write(&given, &body[..8_999]).unwrap();
    let error = quietly(&source, &data, Some(&given)).unwrap_err();
    assert!(matches!(error, FetchError::Size { found: 8_999, expected: 9_000, .. }), "{error}");
    fs::write(&given, vec![0; 9_000]).unwrap();
    let error = quietly(&source, &data, Some(&given)).unwrap_err();
    assert!(matches!(error, FetchError::Checksum { .. }), "{error}");
    assert!(given.exists(), "a file that was given is never removed");
    assert!(names(&data).is_empty());

    fs::write(&given, &body).unwrap();
    let outcome = quietly(&source, &data, Some(&given)).unwrap();
    assert_eq!(outcome.status, Status::FromFile { file: given.clone() });
    assert_eq!((fs::read(outcome.path).unwrap(), fs::read(given).unwrap()), (body.clone(), body));
    assert_eq!(names(&data), ["file.bin"]);
}

#[test]
fn two_at_a_time_are_refused() {
    let (dir, body) = (tempdir().unwrap(), bytes(9_000));
    let server = Server::start(vec![Answer { body: body.clone(), ..Answer::default() }]);
    let source = file(&body, &[&server.url]);
    let mut second = None;
    simclr_fetch::fetch_source(&source, dir.path(), None, &mut |_, _| {
        second.get_or_insert_with(|| quietly(&source, dir.path(), None));
    })
    .unwrap();
    assert!(matches!(second, Some(Err(FetchError::Busy { .. }))));
}

#[test]
fn a_server_that_falls_silent_is_given_up_and_its_bytes_are_kept() {
    let (dir, body) = (tempdir().unwrap(), bytes(50_000));
    let silent =
        |after| Answer { body: body.clone(), ranges: true, cut_after: Some(after), stall: true, ..Answer::default() };
    // In the middle of the file, and then before the first byte.
    let server = Server::start(vec![silent(20_000), silent(0)]);
    let mut source = file(&body, &[&server.url]);
    source.patience = Duration::from_millis(300);
    let began = Instant::now();
    let causes = failures(quietly(&source, dir.path(), None).unwrap_err());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(matches!(causes[..], [FetchError::Cut { received: 20_000, expected: Some(50_000), .. }]), "{}", causes[0]);
    assert_eq!(fs::metadata(dir.path().join("file.bin.part")).unwrap().len(), 20_000);
    assert!(!dir.path().join("file.bin").exists());
}

#[test]
fn redirections_are_followed_but_not_for_ever() {
    let (dir, body) = (tempdir().unwrap(), bytes(9_000));
    let target = Server::start(vec![Answer { body: body.clone(), ..Answer::default() }]);
    let to = |url: &str| Answer { status: Some(302), location: Some(url.to_owned()), ..Answer::default() };
    let first = Server::start(vec![to(&target.url)]);
    let outcome = quietly(&file(&body, &[&first.url]), dir.path(), None).unwrap();
    assert_eq!(fs::read(outcome.path).unwrap(), body);

    let circle = Server::start(vec![to("/file"); 12]);
    let empty = tempdir().unwrap();
    let causes = failures(quietly(&file(&body, &[&circle.url]), empty.path(), None).unwrap_err());
    assert!(causes[0].to_string().contains("redirects"), "{}", causes[0]);
    assert!(names(empty.path()).is_empty());
}

#[test]
fn a_web_page_is_not_the_file() {
    let dir = tempdir().unwrap();
    let page = Answer {
        body: b"<html>log in</html>".to_vec(),
        content_type: Some("text/html; charset=utf-8"),
        ..Answer::default()
    };
    let server = Server::start(vec![page]);
    let mut source = file(&bytes(9_000), &[&server.url]);
    source.size = None;
    let causes = failures(quietly(&source, dir.path(), None).unwrap_err());
    assert!(matches!(&causes[0], FetchError::WebPage { url } if *url == server.url), "{}", causes[0]);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn announced_lengths_are_not_believed() {
    let body = bytes(9_000);
    // More is announced than comes, and then less than there is: neither is the file.
    for (sent, length, expected) in [(8_999, 9_500, "connection ended"), (9_000, 8_000, "8000 bytes, expected 9000")] {
        let dir = tempdir().unwrap();
        let lying = Answer { body: body[..sent].to_vec(), length: Some(length), ..Answer::default() };
        let server = Server::start(vec![lying; 8]);
        let mut source = file(&body, &[&server.url]);
        source.limit = 10_000;
        let causes = failures(quietly(&source, dir.path(), None).unwrap_err());
        assert!(causes[0].to_string().contains(expected), "{}", causes[0]);
        assert!(!dir.path().join("file.bin").exists());
    }
}

#[test]
fn a_mirror_takes_the_place_of_all_addresses() {
    let (dir, body) = (tempdir().unwrap(), bytes(9_000));
    let mirror = Server::start(vec![Answer { body: body.clone(), ..Answer::default() }]);
    let from: Origin = mirror.url.parse().unwrap();
    let source = file(&body, &["http://127.0.0.1:1/never-asked"]);
    let outcome = simclr_fetch::fetch_source(&source, dir.path(), Some(&from), &mut |_, _| ()).unwrap();
    assert_eq!(outcome.status, Status::Downloaded { url: mirror.url.clone(), bytes: 9_000 });
    assert_eq!(fs::read(outcome.path).unwrap(), body);
}
