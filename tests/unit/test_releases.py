"""The configurations repeat the peers' releases, setting by setting, or the table says why not."""

import releases


def test_a_setting_that_differs_from_its_release_is_explained():
    rows = releases.rows()
    assert {row.release for row in rows} == set(releases.CELLS)
    for row in rows:
        assert row.source, row
        if row.ours != row.theirs:
            assert row.note, row


def test_rlcm_and_ddpo_are_their_releases():
    """What decides a training there may differ only in what a single process makes differ."""
    rows = {(r.release, r.setting): r for r in releases.rows()}
    for release in ("RLCM", "DDPO"):
        differ = {s for (r, s), row in rows.items() if r == release and row.ours != row.theirs}
        free = {"base model", "prompts", "precision", "seed", "gradient accumulation per GPU"}
        free |= {"images sampled at once per GPU", "size of images"}
        assert {s for s in differ if rows[release, s].ours} <= free
    assert rows["RLCM", "reward queries"].ours == [32000, 16000, 16000, 84960]
    assert rows["RLCM", "images per update"].ours == [32, 16, 16, 120]
    assert rows["RLCM", "updates"].ours == [1000, 1000, 1000, 708]
    assert rows["RLCM", "updates learned from one sample"].ours == [1] * 4
    assert rows["DDPO", "reward queries"].ours == [51200, 25600, 25600, 57600]


def test_the_page_shows_the_table():
    assert releases.PAGE.read_text(encoding="utf-8") == releases.page()
