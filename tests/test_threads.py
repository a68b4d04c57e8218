import threading

from lipsync_lightning.threads import ahead, behind


def test_pieces_come_in_order_and_no_more_than_allowed_are_made_early_or_wait():
    made, done, allowed = [], [], threading.Semaphore(0)
    with behind(lambda piece: allowed.acquire() and done.append(piece), num_behind=3) as put:
        for asked, piece in enumerate(ahead((made.append(piece) or piece for piece in range(20)), num_ahead=2)):
            assert len(made) <= asked + 3
            if asked >= 3:
                allowed.release()
            put(piece)
            assert asked - 2 <= len(done) <= asked
        allowed.release(3)
    assert done == made == list(range(20))
