"""Provenance: the paths of results, code fingerprints, manifests, acceptance, whole files."""

from rocm_core.provenance.chain import (
    Made,
    check_manifest,
    damage,
    differing,
    first_of,
    is_accepted,
    is_of_other_code,
    lacking,
    left_out,
    processes_of,
    read_manifest,
)
from rocm_core.provenance.files import (
    CSV_OPTIONS,
    LOCK,
    CellFiles,
    Layout,
    RunFiles,
    SampleFiles,
    SnapshotFiles,
    StudyFiles,
    atomic_write,
    digest_of,
    files_in,
    folder_digest,
    listed_hashes,
    read_entry,
    read_listing,
    record_beside,
    record_of,
    sha256_file,
    write_csv,
    write_json,
)
from rocm_core.provenance.fingerprint import (
    SKIPPED,
    code_fingerprint,
    forget_code,
    module_closure,
)
from rocm_core.provenance.manifests import (
    Accepted,
    accepted_code,
    by_relative_path,
    content_digest,
    hash_inputs,
    listed_outputs,
    package_versions,
    sealed,
    stands,
    write_manifest,
)
from rocm_core.provenance.origin import record_origin, require_same_origin
from rocm_core.provenance.sources import here, located
