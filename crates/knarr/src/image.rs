//! `knarr image`, and the demo images that every cluster has.

use crate::{
    cli::{Image, Which},
    cluster::Cluster,
    log::log,
    preflight,
    progress::{ImageBar, Steps, megabytes},
};
use anyhow::Context as _;
use runtime::{ImageConfig, LocalFile, Runtime};
use std::{collections::BTreeMap, path::PathBuf};

/// The demo application's image, without the tag.
pub const DEMO: &str = "knarr.local/shop";
/// Its versions: the second is there to be rolled out.
const DEMO_VERSIONS: [&str; 2] = ["v1", "v2"];
/// Where the program is in it.
const DEMO_PROGRAM: &str = "/knarr";
/// Hexadecimal digits of an ID that are shown, as docker does.
const ID_DIGITS: usize = 12;

/// Runs the command.
pub async fn run(image: Image) -> anyhow::Result<()> {
    log();
    preflight::root()?;
    let steps = Steps::new();
    match image {
        Image::Import { archives, which } => {
            let images = open(&which)?;
            for archive in archives {
                let bar = ImageBar::new(&steps, &archive.display().to_string());
                let found = images.import(&archive, &bar).await.with_context(|| archive.display().to_string())?;
                for image in found {
                    steps.done(&format!("{} ({})", image.repo_tags.join(", "), megabytes(image.size)));
                }
            }
        }
        Image::List { which } => list(&open(&which)?.list()),
        Image::Rm { images: references, which } => {
            let images = open(&which)?;
            for reference in references {
                images.remove(&reference).await.with_context(|| reference.clone())?;
                steps.done(&format!("{reference} removed"));
            }
        }
    }
    Ok(())
}

fn open(which: &Which) -> anyhow::Result<runtime::Images> {
    let cluster = Cluster::find(&which.name, which.data_dir.as_deref())?;
    cluster.claim()?;
    runtime::Images::open(&cluster.runtime(None)).with_context(|| format!("the images of the cluster {:?}", cluster.name))
}

fn list(images: &[runtime::Image]) {
    println!("{:<60} {:<14} {:>10}", "IMAGE", "ID", "SIZE");
    let mut rows = BTreeMap::new();
    for image in images {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(ID_DIGITS).collect();
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        for name in names {
            rows.insert(name.clone(), (id.clone(), image.size));
        }
        if names.is_empty() {
            rows.insert("<none>".to_owned(), (id, image.size));
        }
    }
    for (name, (id, size)) in rows {
        println!("{name:<60} {id:<14} {:>10}", megabytes(size));
    }
}

/// Makes the demo images of this very program if they are not there or are of another build.
pub async fn demo(runtime: &Runtime, steps: &Steps) -> anyhow::Result<()> {
    let program: PathBuf = std::env::current_exe().context("this program cannot find itself")?;
    let mut made = false;
    for version in DEMO_VERSIONS {
        let reference = format!("{DEMO}:{version}");
        let config = ImageConfig {
            entrypoint: vec![DEMO_PROGRAM.into(), "demo".into()],
            cmd: vec!["web".into()],
            env: vec![format!("SHOP_VERSION={version}"), "PATH=/".into()],
            user: "65532:65532".into(),
            ..ImageConfig::default()
        };
        let file = LocalFile { host: program.clone(), path: DEMO_PROGRAM.into(), mode: 0o755 };
        made |= runtime.image(&reference).is_none();
        runtime.add_layer_image(&reference, vec![file], config).await.with_context(|| reference)?;
    }
    if made {
        steps.done(&format!("images {DEMO}:v1 and :v2 made of this program"));
    }
    Ok(())
}
