"""A study for each verdict of each claim."""

from helpers.claims import DEAD, SOME, bn_batches, curve, curves, lines, measured, pair, study


def best_at(inside: int, outside: int, *figures: str, **settings) -> dict[str, dict]:
    """A case of each verdict for a claim that the best is at `inside` rather than at `outside`."""

    def each(at_inside: float, spread: float = 0.0) -> dict:
        return study(**{name: curve({inside: at_inside, outside: 0.8}, spread, **settings) for name in figures})

    return {"supported": each(0.9), "refuted": each(0.7), "undecided": each(0.81, spread=0.1)}


UP_TO_16 = curve({2: 0.9, 16: 0.9, 128: DEAD})
FLAT = {8: 0.8, 32: 0.8, 64: 0.8, 256: 0.8}
WARM = {8: 0.8, 32: 0.8, 64: 0.85, 256: 0.85}  # helps large m, and lifts them above small
HELPED = {8: 0.85, 32: 0.85, 64: 0.8, 256: 0.8}  # small m are above
CASES: dict[str, dict[str, dict]] = {
    "C1": best_at(8, 16, "fig01"),
    "C2": best_at(2, 8, "fig02", "fig03"),
    "C3": {
        "supported": study(fig01=curve({2: 0.9, 8: 0.85, 128: DEAD})),
        "refuted": study(fig01=curve({2: 0.9, 8: 0.85, 128: 0.8})),
        "undecided": study(fig01=curve({2: 0.9, 8: 0.85, 128: SOME})),
    },
    "C4": {
        "supported": study(fig01=curve({2: 0.9, 8: 0.8, 128: DEAD})),
        "refuted": study(fig01=curve({2: 0.8, 8: 0.9, 128: 0.95})),
        "undecided": study(fig01=curve({2: 0.9, 8: 0.8, 128: SOME})),
    },
    "C5": {
        "supported": study(fig02=lines({2: [0.9, 0.9, 0.9], 64: [0.9, DEAD, DEAD]})),
        "refuted": study(fig02=lines({2: [0.9, DEAD, DEAD], 64: [0.9, 0.9, DEAD]})),
        "undecided": study(fig02=lines({2: [0.9, SOME, DEAD], 64: [0.9, DEAD, DEAD]})),
    },
    "C6": {
        "supported": study(sec32=curve({4: 0.765, 8: 0.7, 128: DEAD})),
        "refuted": study(sec32=curve({4: 0.765, 8: 0.7, 128: 0.7})),
        "undecided": study(sec32=curve({4: 0.765, 8: 0.7, 128: SOME})),
    },
    "C7": {
        "supported": curves({4: [0.5, 0.9], 64: [0.505, 0.905], 128: [0.4, 0.8]}),
        "refuted": curves({4: [0.5, 0.9], 64: [0.4, 0.9], 128: [0.3, 0.8]}),  # they end together
        "undecided": curves({4: [0.5, 0.9], 64: [0.505, 0.905], 128: [0.4, 0.8]}, spread=0.05),
    },
    "C8": {
        "supported": pair({2: 0.8, 8: 0.8, 32: 0.8}, {2: 0.7, 8: 0.85, 32: 0.85}, "fig01", "fig05"),
        "refuted": pair({2: 0.8, 8: 0.8, 32: 0.8}, {2: 0.7, 8: 0.75, 32: 0.85}, "fig01", "fig06"),
        "undecided": pair({2: 0.8}, {2: 0.81}, "fig01", "fig05", spread=0.1),
    },
    "C9": {
        "supported": study(fig05=curve({2: 0.8, 8: 0.9, 128: 0.85})),
        "refuted": study(fig05=curve({2: 0.9, 8: 0.85, 128: 0.8})),
        "undecided": study(fig05=curve({2: 0.8, 8: 0.9, 128: 0.85}, spread=0.1)),
    },
    "C10": best_at(32, 64, "fig06"),
    "C11": {
        "supported": pair({8: 0.85}, {32: 0.855}, "fig05", "fig06"),
        "refuted": pair({8: 0.85}, {32: 0.87}, "fig05", "fig06"),
        "undecided": pair({8: 0.85}, {32: 0.855}, "fig05", "fig06", spread=0.02),
    },
    "C12": {
        "supported": study(fig08=curve({2: 0.85, 8: 0.9, 64: 0.8, 512: 0.7})),
        "refuted": study(fig08=curve({2: 0.95, 8: 0.9, 64: 0.8, 512: 0.7})),
        "undecided": study(fig08=curve({2: 0.85, 8: 0.9, 64: 0.88, 512: 0.9}, spread=0.1)),
    },
    "C13": {
        "supported": study(fig08=UP_TO_16, fig09=curve({2: 0.9, 16: DEAD, 128: DEAD})),
        "refuted": study(fig08=UP_TO_16, fig09=curve({2: 0.9, 16: 0.9, 128: DEAD})),
        "undecided": study(fig08=curve({2: 0.9, 16: 0.9, 128: SOME})),
    },
    "C14": {
        "supported": pair(FLAT, WARM, "fig09", "fig11"),
        "refuted": pair(FLAT, HELPED, "fig08", "fig10"),
        "undecided": pair(FLAT, WARM, "fig08", "fig10", spread=0.1),
    },
    "C15": {
        "supported": study(fig10=curve({2: 0.85, 8: 0.9, 128: 0.89, 512: 0.7})),
        "refuted": study(fig10=curve({2: 0.85, 8: 0.9, 128: 0.8, 512: 0.7})),
        "undecided": study(fig10=curve({2: 0.7, 8: 0.9, 128: [0.83, 0.88, 0.93], 512: 0.7})),
    },
    "C16": {
        "supported": pair({16: 0.9, 64: 0.88}, {16: 0.7, 64: 0.6}, "fig10", "fig11"),
        "refuted": pair({16: 0.9, 64: 0.8}, {16: 0.7, 64: 0.68}, "fig10", "fig11"),
        "undecided": pair({16: 0.9, 64: 0.85}, {16: 0.7, 64: 0.64}, "fig10", "fig11", spread=0.05),
    },
    "C17": {
        "supported": pair(HELPED, HELPED, "fig08", "fig10"),
        "refuted": pair(FLAT, WARM, "fig09", "fig11"),
        "undecided": study(fig10=curve({8: 0.81, 64: 0.8}, spread=0.1)),
    },
    "C18": best_at(64, 128, "fig12"),
    "C19": {
        "supported": study(fig12=lines({8: [0.7, 0.8], 64: [0.69, 0.6]})),
        "refuted": study(fig12=lines({8: [0.7, 0.8], 64: [0.5, 0.75]})),
        "undecided": study(fig12=lines({8: [0.7, 0.8, SOME], 64: [0.69, 0.6, 0.7]})),
    },
    "C20": {
        "supported": study(fig13=bn_batches({(8, 2): 0.8, (64, 2): 0.7, (8, 4): 0.8, (64, 4): 0.79})),
        "refuted": study(fig14=bn_batches({(8, 2): 0.8, (64, 2): 0.7, (8, 4): 0.8, (64, 4): 0.81})),
        "undecided": study(fig13a=bn_batches({(8, 2): 0.8, (64, 2): 0.79}, spread=0.1)),
    },
    "C21": {
        "supported": study(fig13b=bn_batches({(8, 4): 0.8, (8, 8): 0.79, (64, 8): 0.8, (64, 64): 0.7})),
        "refuted": study(fig13b=bn_batches({(8, 4): 0.8, (8, 8): 0.79, (64, 8): 0.7, (64, 64): 0.8})),
        "undecided": study(fig13b=bn_batches({(64, 8): 0.8, (64, 64): 0.79}, spread=0.1)),
    },
    "C22": {
        "supported": study(fig14=bn_batches({(64, 64): 0.8, (64, 8): 0.7, (256, 32): 0.8, (256, 128): 0.7})),
        "refuted": study(fig14=bn_batches({(64, 64): 0.8, (64, 8): 0.7, (256, 32): 0.7, (256, 128): 0.8})),
        "undecided": study(fig14=bn_batches({(64, 64): 0.8, (64, 8): 0.79}, spread=0.1)),
    },
    "C23": {
        "supported": study(fig15=curve({2: 0.9, 32: 0.85, 64: 0.8}, norm="none")),
        "refuted": study(fig15=curve({2: 0.8, 32: 0.85, 64: 0.8}, norm="none")),
        "undecided": study(fig15=curve({2: 0.82, 32: 0.81, 64: 0.8}, spread=0.1, norm="none")),
    },
    "C24": {
        "supported": study(fig16=lines({2: [0.9, 0.9, 0.9], 8: [0.9, 0.9, DEAD], 128: [0.9, DEAD, DEAD]}, norm="none")),
        "refuted": study(fig16=lines({2: [0.9, DEAD, DEAD], 8: [0.9, 0.9, DEAD], 128: [0.9, 0.9, 0.9]}, norm="none")),
        "undecided": study(fig16=lines({2: [0.9, SOME], 8: [0.9, SOME], 128: [0.9, SOME]}, norm="none")),
    },
    "C25": {
        "supported": pair({8: 0.85, 64: 0.7}, {8: 0.86, 64: 0.75}, "fig17", "fig08"),
        "refuted": pair({8: 0.85, 64: 0.7}, {8: 0.9, 64: 0.72}, "fig17", "fig18"),
        "undecided": pair({8: 0.85, 64: 0.7}, {8: 0.86, 64: 0.75}, "fig08", "fig18", spread=0.1),
    },
    "C26": {
        "supported": measured({2: 1.0, 4: 2.0, 8: 4.0}, {2: 3.0, 4: 6.1, 8: 12.0}),
        "refuted": measured({2: 1.0, 4: 4.0, 8: 16.0}, {2: 1.0, 4: 4.1, 8: 16.0}),
        "undecided": measured({2: 1.0, 4: 2.0, 8: 4.0}, {2: 1.0, 4: 2.8, 8: 8.0}),
    },
}  # fmt: skip
