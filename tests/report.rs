//! The report of a run, and how it behaves in a browser: headless Chromium, where the machine has one.

mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use program::{result, run};
use serde_json::Value;

/// A run of the built-in pictures that all tests look at; the folder goes when the process ends.
fn finished() -> &'static (tempfile::TempDir, PathBuf) {
    static RUN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    RUN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        result(&format!(
            "pretrain --data shapes --subset 400 --width 4 --batch 50 --epochs 2 --run {}",
            folder.display()
        ));
        (dir, folder)
    })
}

/// Pictures without classes, some of them alike.
fn unlabelled(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for i in 0..40u32 {
        let colour = [[220, 30, 30], [30, 200, 40], [40, 60, 220]][i as usize % 3];
        let pixels = image::RgbImage::from_fn(20, 24, |x, y| {
            image::Rgb(colour.map(|c: u8| c.wrapping_add((3 * x + 2 * y + i) as u8 % 40)))
        });
        pixels.save(folder.join(format!("<{i}>.png"))).unwrap();
    }
}

#[allow(clippy::print_stdout, reason = "a test that was skipped says so")]
fn chromium() -> Option<&'static str> {
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        let started = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        started.is_ok_and(|status| status.success())
    });
    if found.is_none() {
        println!("SKIPPED: there is no Chromium here to open the report with");
    }
    found
}

/// Opens a page with a script at its end, and returns what the script left in `window.found`.
fn in_browser(chromium: &str, page: &Path, [width, height]: [u32; 2], dark: bool, script: &str) -> Value {
    let html = fs::read_to_string(page).unwrap();
    // Errors of the page's own scripts and of the console are seen because this comes first.
    let first = "<script>window.errors=[];addEventListener('error',e=>errors.push(String(e.message)));\
                 console.error=(...a)=>errors.push(a.join(' '));console.warn=console.error;\
                 addEventListener('securitypolicyviolation',e=>errors.push(e.violatedDirective))</script>";
    let last = format!(
        "<script>addEventListener('load',async()=>{{let found;try{{found=await (async()=>{{{script}}})()}}catch(e){{errors.push(String(e))}}\
         const told=document.createElement('script');told.type='application/json';told.id='told';\
         told.textContent=JSON.stringify({{errors,found,wide:document.documentElement.scrollWidth,ground:getComputedStyle(document.body).backgroundColor,\
         fetched:performance.getEntriesByType('resource').map(r=>r.name).filter(n=>!n.startsWith('data:'))}});document.body.append(told)}})</script>"
    );
    let html = html.replacen("<head>", &format!("<head>{first}"), 1).replacen("</body>", &format!("{last}</body>"), 1);
    let folder = tempfile::tempdir().unwrap();
    let tested = folder.path().join("tested.html");
    fs::write(&tested, html).unwrap();
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--virtual-time-budget=5000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("--window-size={width},{height}"))
        .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)))
        .arg(format!("file://{}", tested.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let told = dom.rsplit_once("id=\"told\">").and_then(|(_, rest)| rest.split_once("</script>"));
    let Some((told, _)) = told else {
        panic!("the page told nothing: {}\n{}", String::from_utf8_lossy(&output.stderr), &dom[..dom.len().min(2_000)]);
    };
    serde_json::from_str(told).unwrap()
}

/// Points at a picture, leaves, takes a class out, looks at another map, opens a definition, looks at other neighbours.
const USE: &str = r##"
    const map = JSON.parse(document.getElementById("map-data").textContent), canvas = document.getElementById("map-canvas");
    const tip = document.getElementById("map-tip"), found = {};
    const pixels = canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const painted = canvas => { const p = pixels(canvas); let n = 0; for (let i = 3; i < p.length; i += 4) n += p[i] > 0; return n };
    canvas.scrollIntoView();
    const box = canvas.getBoundingClientRect(), [x, y] = map.views[0].points[5];
    const point = (x, y) => canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y, bubbles: true }));
    found.points = map.of.length;
    found.painted = painted(canvas);
    found.hidden = tip.hidden;
    point(box.left + 12 + x / 1000 * (box.width - 24), box.top + 12 + (1 - y / 1000) * (box.height - 24));
    found.tip = !tip.hidden && tip.textContent;
    found.preview = painted(tip.querySelector("canvas"));
    found.colours = new Set(pixels(tip.querySelector("canvas"))).size;
    canvas.dispatchEvent(new PointerEvent("pointerleave"));
    found.left = tip.hidden;
    const buttons = [...document.querySelectorAll("#map-legend button")];
    found.groups = buttons.length;
    found.all = +canvas.dataset.shown;
    buttons[0].click();
    found.without = +canvas.dataset.shown;
    found.pressed = buttons[0].getAttribute("aria-pressed");
    buttons[0].click();
    buttons[1].dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
    found.alone = +canvas.dataset.shown;
    buttons[1].dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
    found.again = +canvas.dataset.shown;
    const before = pixels(canvas).join();
    document.querySelector("input[name=map-encoder][value='random encoder']").click();
    await new Promise(done => setTimeout(done, 1500));
    found.other = pixels(canvas).join() !== before;
    const term = document.querySelector("a.term");
    term.click();
    found.word = document.getElementById("word")?.textContent;
    document.body.click();
    found.closed = document.getElementById("word") === null;
    const shown = name => getComputedStyle(document.querySelector(".near." + name)).display !== "none";
    found.near = [shown("trained"), shown("random")];
    document.getElementById("near-random").click();
    found.then = [shown("trained"), shown("random")];
    found.links = [...document.querySelectorAll("a[href^='#']")].filter(a => !document.getElementById(a.hash.slice(1))).length;
    return found;
"##;

fn works(told: &Value, width: u64) {
    assert_eq!(told["errors"], serde_json::json!([]), "{told}");
    assert_eq!(told["fetched"], serde_json::json!([]), "nothing is fetched: {told}");
    assert!(told["wide"].as_u64().unwrap() <= width, "the page is wider than the window: {told}");
    let found = &told["found"];
    let number = |name: &str| found[name].as_u64().unwrap();
    assert!(number("painted") > 100 && number("preview") == 96 * 96 && number("colours") > 8, "{told}");
    assert_eq!(
        (&found["hidden"], &found["left"], &found["closed"]),
        (&true.into(), &true.into(), &true.into()),
        "{told}"
    );
    assert_eq!((number("all"), number("again")), (number("points"), number("points")), "{told}");
    assert!(number("without") < number("all") && 0 < number("alone") && number("alone") < number("all"), "{told}");
    assert_eq!((&found["pressed"], &found["other"], number("links")), (&"false".into(), &true.into(), 0), "{told}");
    assert!(found["word"].as_str().unwrap().len() > 40, "{told}");
    assert_eq!(
        (&found["near"], &found["then"]),
        (&serde_json::json!([true, false]), &serde_json::json!([false, true])),
        "{told}"
    );
}

#[test]
fn the_report_works_in_a_browser() {
    let Some(chromium) = chromium() else { return };
    let page = finished().1.join("report.html");
    let light = in_browser(chromium, &page, [1100, 900], false, USE);
    works(&light, 1100);
    assert_eq!(light["found"]["groups"], 10);
    let tip = light["found"]["tip"].as_str().unwrap();
    // The sixth picture of the test split, and its class.
    assert_eq!(tip, "cross: shapes/5");
    let phone = in_browser(chromium, &page, [390, 844], true, USE);
    // Chromium makes no window narrower than 500 pixels without a screen: the page must fit all the same.
    works(&phone, 500);
    assert_eq!((&light["ground"], &phone["ground"]), (&"rgb(255, 255, 255)".into(), &"rgb(13, 17, 23)".into()));
}

#[test]
fn pictures_without_labels_have_groups_and_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let (pictures, folder) = (dir.path().join("pictures"), dir.path().join("run"));
    unlabelled(&pictures);
    let data = format!("--data folder:{}", pictures.display());
    let ended =
        result(&format!("pretrain {data} --size 16 --width 4 --batch 10 --epochs 1 --run {}", folder.display()));
    assert!(ended["knn_top1"].is_null());
    let page = folder.join("report.html");
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("Groups that it found") && html.contains("Nearest neighbours"));
    assert!(!html.contains("What is taken for what") && !html.contains("<7>.png"), "names are escaped");
    if let Some(chromium) = chromium() {
        let told = in_browser(chromium, &page, [1100, 900], false, USE);
        works(&told, 1100);
        assert!(told["found"]["tip"].as_str().unwrap().starts_with("group "), "{told}");
    }
}

#[test]
fn the_report_is_written_again_with_every_figure() {
    let (dir, folder) = finished();
    let (out, plots) = (dir.path().join("again.html"), dir.path().join("plots"));
    let typed = format!("report {} --out {} --plots {}", folder.display(), out.display(), plots.display());
    let object = result(&typed);
    assert_eq!(fs::read(&out).unwrap(), fs::read(folder.join("report.html")).unwrap(), "the same bits");
    assert!(fs::metadata(&out).unwrap().len() < 5_000_000);
    let mut files: Vec<String> =
        object["plots"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    files.sort_unstable();
    for expected in [
        "comparison.svg",
        "confusion.svg",
        "curve-contrastive-loss.svg",
        "factors-accuracy.svg",
        "factors-r2.svg",
        "map-pca-random-encoder.svg",
        "map-t-sne-trained.svg",
        "neighbours-trained.png",
        "pairs.png",
    ] {
        assert!(files.iter().any(|file| file == expected), "{expected} of {files:?}");
    }
    for file in &files {
        let bytes = fs::read(plots.join(file)).unwrap();
        if file.ends_with(".png") {
            assert!(image::load_from_memory(&bytes).is_ok(), "{file}");
        } else {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.starts_with("<svg xmlns=") && !text.contains("NaN"), "{file}");
        }
    }
    let html = fs::read_to_string(&out).unwrap();
    for part in
        ["With and without training", "What the features keep", "Speed and time", "Where a step spends its time"]
    {
        assert!(html.contains(part), "{part} is not in the report");
    }
}

#[test]
fn what_is_no_run_or_has_no_checkpoint_has_no_report() {
    let dir = tempfile::tempdir().unwrap();
    let ended = run(&format!("report {}", dir.path().join("nothing").display()));
    assert_eq!(ended.status, Some(1));
    assert!(ended.stderr.contains("there is no run here"), "{}", ended.stderr);
    let folder = dir.path().join("run");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(finished().1.join("config.toml"), folder.join("config.toml")).unwrap();
    let ended = run(&format!("report {}", folder.display()));
    assert_eq!(ended.status, Some(1));
    assert!(ended.stderr.contains("the run has no checkpoint yet"), "{}", ended.stderr);
    assert!(!folder.join("report.html").exists());
}
