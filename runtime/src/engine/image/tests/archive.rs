//! Layouts in archives, plain and compressed.

use std::io::Write;

use super::*;
use crate::error::ErrorKind;

/// The files of a layout with one image, by their names in it.
fn files(bed: &Bed) -> Vec<(String, Vec<u8>)> {
    bed.layout.list(&[bed.layout.image(&[layer("a", "one")])]);
    let blobs = fs::read_dir(bed.layout.0.join("blobs/sha256")).unwrap();
    let mut files: Vec<_> = blobs
        .map(|blob| {
            let blob = blob.unwrap();
            let name = blob.file_name().into_string().unwrap();
            (
                format!("blobs/sha256/{name}"),
                fs::read(blob.path()).unwrap(),
            )
        })
        .collect();
    let index = fs::read(bed.layout.0.join("index.json")).unwrap();
    files.push(("index.json".into(), index));
    files
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let files: Vec<_> = files
        .iter()
        .map(|(name, content)| (&**name, &**content))
        .collect();
    tar(&files)
}

impl Bed {
    async fn pull_archive(&self, content: &[u8]) -> Result<HeldImage> {
        let file = self.root.path().join("app.tar");
        fs::write(&file, content).unwrap();
        let source = ImageSource::Archive { file, tag: None };
        self.pull(&source, None).await
    }
}

#[tokio::test]
async fn an_archive_may_be_compressed() {
    let bed = Bed::new();
    let plain = archive(&files(&bed));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for content in [plain, gzip, zstd] {
        let bed = Bed::new();
        let held = bed.pull_archive(&content).await.unwrap();
        assert_eq!(held.view().names, ["localhost/app:latest"]);
        let dir = &bed.images.directories(held.image())[0];
        assert_eq!(fs::read(dir.join("a")).unwrap(), b"one");
    }
}

#[tokio::test]
async fn layers_may_be_compressed_and_keep_the_id_of_their_content() {
    let plain = layer("a", "one");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for content in [gzip.finish().unwrap(), zstd] {
        let bed = Bed::new();
        let config = bed
            .layout
            .document(CONFIG, &config(std::slice::from_ref(&plain)));
        let image = bed
            .layout
            .manifest(&config, &[bed.layout.blob(LAYER, &content)]);
        bed.layout.list(&[image]);
        let held = bed.pull(&bed.source(None), None).await.unwrap();
        assert_eq!(held.image().layers[0].diff_id, sha256(&plain));
    }
}

#[tokio::test]
async fn the_files_of_a_layout_are_found_among_others() {
    let bed = Bed::new();
    let good = files(&bed);
    let mut files = vec![
        ("index.json".to_owned(), b"an earlier one".to_vec()),
        ("notes/index.json".to_owned(), b"not this one".to_vec()),
    ];
    files.extend(good.iter().cloned());
    files.push(("blobs".to_owned(), Vec::new()));
    bed.pull_archive(&archive(&files)).await.unwrap();

    // As `tar -cf FILE -C DIR .` writes them: `append_data` would drop the dot.
    let mut archive = ::tar::Builder::new(Vec::new());
    for (name, content) in &good {
        let mut header = ::tar::Header::new_gnu();
        let name = format!("./{name}");
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.append(&header, &content[..]).unwrap();
    }
    let bed = Bed::new();
    let dotted = archive.into_inner().unwrap();
    bed.pull_archive(&dotted).await.unwrap();
}

#[tokio::test]
async fn what_an_archive_lacks_is_named() {
    let bed = Bed::new();
    let files = files(&bed);
    for missing in 0..files.len() {
        let mut files = files.clone();
        let (name, _) = files.remove(missing);
        let bed = Bed::new();
        let error = image_error(bed.pull_archive(&archive(&files)).await);
        let ImageError::Read { what, source } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        let file = bed.root.path().join("app.tar");
        assert_eq!(*what, format!("{name} of {}", file.display()));
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    // A link is not followed.
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::Symlink);
    header.set_size(0);
    let mut linked = ::tar::Builder::new(Vec::new());
    linked
        .append_link(&mut header, "index.json", "/etc/passwd")
        .unwrap();
    let error = image_error(bed.pull_archive(&linked.into_inner().unwrap()).await);
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_archive_that_is_cut_off_or_is_none_is_an_error() {
    let bed = Bed::new();
    let whole = archive(&files(&bed));
    for content in [&whole[..700], b"\x1f\x8bx", b"\x28\xb5\x2f\xfdx"] {
        let error = image_error(bed.pull_archive(content).await);
        assert!(matches!(error, ImageError::Read { .. }), "{error:?}");
    }
    let source = ImageSource::Archive {
        file: bed.root.path().to_owned(),
        tag: None,
    };
    let error = image_error(bed.pull(&source, None).await);
    assert!(
        matches!(&error, ImageError::Read { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput),
        "{error:?}"
    );
}

/// The names of an entry are kept in memory.
#[tokio::test]
async fn the_headers_of_an_entry_are_bounded() {
    let bed = Bed::new();
    let files = files(&bed);
    const MOST: usize = 1 << 20;
    for (length, is_read) in [(MOST / 2, true), (MOST + 512, false)] {
        let mut archive = ::tar::Builder::new(Vec::new());
        let comment = vec![b'x'; length];
        archive
            .append_pax_extensions([("comment", &comment[..])])
            .unwrap();
        for (name, content) in &files {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            archive
                .append_data(&mut header, name, &content[..])
                .unwrap();
        }
        let bed = Bed::new();
        let pulled = bed.pull_archive(&archive.into_inner().unwrap()).await;
        assert_eq!(pulled.is_ok(), is_read, "{length}");
        if !is_read {
            let error = image_error(pulled);
            assert!(error.to_string().contains("larger than 1 MiB"), "{error}");
        }
    }
}

/// The content of an entry does not count as its headers.
#[tokio::test]
async fn a_large_blob_is_read() {
    let bed = Bed::new();
    let content = "x".repeat(3 << 20);
    bed.layout
        .list(&[bed.layout.image(&[layer("a", &content)])]);
    let blobs = fs::read_dir(bed.layout.0.join("blobs/sha256")).unwrap();
    let mut files: Vec<_> = blobs
        .map(|blob| {
            let blob = blob.unwrap();
            let name = blob.file_name().into_string().unwrap();
            (
                format!("blobs/sha256/{name}"),
                fs::read(blob.path()).unwrap(),
            )
        })
        .collect();
    let index = fs::read(bed.layout.0.join("index.json")).unwrap();
    files.push(("index.json".into(), index));
    let held = bed.pull_archive(&archive(&files)).await.unwrap();
    assert_eq!(held.image().size(), 3 << 20);
}
