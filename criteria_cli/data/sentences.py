"""Sentences of the synthetic corpus. All of them our own; none was written by a person in need.

Patterns of one criterion share few words with those of another, so that a small model has something
to learn.
"""

from __future__ import annotations

Pattern = tuple[str, tuple[tuple[str, ...], ...]]
"""A sentence with places, and the words for each of them."""

EVIDENCE: dict[str, tuple[Pattern, ...]] = {
    "DEPRESSED_MOOD": (
        (
            "I have felt {} {} and the {} seems grey.",
            (
                ("sad", "gloomy", "hopeless", "tearful", "miserable"),
                ("all week", "since Monday", "from morning to evening", "for days"),
                ("sky", "street", "kitchen", "whole town"),
            ),
        ),
        (
            "There is a {} inside me and I {} for no reason.",
            (
                ("sadness", "heavy gloom", "hopeless emptiness", "misery"),
                ("cry", "weep", "burst into tears"),
            ),
        ),
    ),
    "ANHEDONIA": (
        (
            "{} used to delight me, now it {}.",
            (
                ("Painting", "My guitar", "Gardening", "Football", "Baking", "The choir"),
                ("bores me", "leaves me indifferent", "gives me no pleasure", "means nothing"),
            ),
        ),
        (
            "I dropped {} because nothing is {} any more.",
            (
                ("my hobbies", "the chess club", "our film nights", "dancing"),
                ("fun", "enjoyable", "interesting", "exciting"),
            ),
        ),
    ),
    "APPETITE_CHANGE": (
        (
            "My appetite is {} and I {} this month.",
            (
                ("gone", "out of control", "strange", "twice what it was"),
                ("lost six kilos", "gained weight", "skipped most meals", "went up a size"),
            ),
        ),
        (
            "I {} although I am not on a diet.",
            (("hardly eat", "overeat every evening", "push the plate away", "keep snacking"),),
        ),
    ),
    "SLEEP_ISSUES": (
        (
            "I {} until {} and stare at the ceiling.",
            (
                ("lie awake", "cannot fall asleep", "toss in bed", "have insomnia"),
                ("three", "four", "half past two", "dawn"),
            ),
        ),
        (
            "I {} and still {}.",
            (
                ("oversleep", "sleep twelve hours", "nap all afternoon", "wake far too early"),
                ("want my bed", "dream badly", "hate the alarm clock", "miss the morning"),
            ),
        ),
    ),
    "PSYCHOMOTOR": (
        (
            "People say that I {} {}.",
            (
                ("pace", "fidget", "wring my hands", "rock my legs"),
                ("restlessly", "without a pause", "through every meeting", "like a caged animal"),
            ),
        ),
        (
            "My {} so slow that {} remarked on it.",
            (
                ("speech has become", "steps have become", "movements are", "gestures are"),
                ("my sister", "the doctor", "a neighbour", "my boss"),
            ),
        ),
    ),
    "FATIGUE": (
        (
            "I am {} after {}.",
            (
                ("exhausted", "drained", "worn out", "weary to the bone"),
                ("a shower", "climbing one stair", "washing two cups", "the shortest errand"),
            ),
        ),
        (
            "My {} by noon, every day.",
            (
                (
                    "energy is used up",
                    "batteries are empty",
                    "strength has left me",
                    "limbs are lead",
                ),
            ),
        ),
    ),
    "WORTHLESSNESS": (
        (
            "I am {} and {}.",
            (
                ("a failure", "worthless", "a burden", "useless"),
                ("everybody knows", "I blame myself", "deserve no kindness", "feel guilty for it"),
            ),
        ),
        (
            "The guilt about {} {} me.",
            (
                ("old mistakes", "letting them down", "my faults", "what I said"),
                ("crushes", "haunts", "follows", "shames"),
            ),
        ),
    ),
    "COGNITIVE_ISSUES": (
        (
            "I cannot {} and {} the same page.",
            (
                ("concentrate", "focus", "think clearly", "follow a sentence"),
                ("reread", "forget", "go over", "stumble through"),
            ),
        ),
        (
            "My {} makes even {} undecidable.",
            (
                ("brain fog", "scattered mind", "poor concentration", "forgetfulness"),
                ("lunch", "a text message", "the colour of socks", "a simple form"),
            ),
        ),
    ),
    "SUICIDAL_THOUGHTS": (
        (
            "I keep {} {}.",
            (
                ("thinking about death", "wishing to be dead", "imagining my funeral"),
                ("at night", "on the way home", "whenever it is quiet"),
            ),
        ),
        (
            "{} whether ending my life {}.",
            (
                ("I ask myself", "Again I wonder", "Part of me asks"),
                ("would be easier", "would be noticed", "is an answer"),
            ),
        ),
    ),
}
"""What shows a criterion, by its name."""

DENIALS: dict[str, tuple[str, ...]] = {
    "DEPRESSED_MOOD": ("My mood is fine, thank you.", "I am cheerful most mornings."),
    "ANHEDONIA": ("I still look forward to my hobbies.", "The choir makes me happy."),
    "APPETITE_CHANGE": ("I eat well and weigh what I always did.", "Dinner tastes good."),
    "SLEEP_ISSUES": ("I sleep soundly.", "Eight hours of sleep, as always."),
    "PSYCHOMOTOR": ("I can sit still for hours.", "My hands are calm."),
    "FATIGUE": ("I have plenty of energy.", "I ran ten kilometres and felt fresh."),
    "WORTHLESSNESS": ("I am proud of what I did.", "Nobody blames me and neither do I."),
    "COGNITIVE_ISSUES": ("My head is clear.", "I read a whole book on Sunday."),
    "SUICIDAL_THOUGHTS": ("I am glad to be alive.", "I never think of such an end."),
}
"""What denies a criterion with words of its own: annotated with status 0."""

EVERYDAY: tuple[Pattern, ...] = (
    (
        "The {} was {} on {}.",
        (
            ("bus", "train", "market", "library", "post office", "harbour", "museum"),
            ("late", "crowded", "closed", "quiet", "almost empty", "under repair"),
            ("Monday", "Tuesday", "Thursday", "Friday", "Saturday"),
        ),
    ),
    (
        "{} asked me to {} the {}.",
        (
            ("My cousin", "A colleague", "The landlord", "Our teacher", "An old friend"),
            ("repair", "collect", "photograph", "return", "paint", "measure"),
            ("bicycle", "parcel", "fence", "printer", "door", "shelf", "map"),
        ),
    ),
    (
        "We {} {} near the {}.",
        (
            ("met", "parked", "had coffee", "waited", "took the dog out"),
            ("yesterday", "last weekend", "after work", "around five"),
            ("river", "station", "bakery", "old mill", "playground"),
        ),
    ),
    (
        "It {} and I {}.",
        (
            ("rained", "snowed a little", "got warm", "was windy"),
            ("stayed in", "wore my blue coat", "took the tram", "opened the windows"),
        ),
    ),
    (
        "Does anyone know a good {} for {}?",
        (
            ("recipe", "website", "shop", "course", "repairman"),
            ("beginners", "small flats", "old phones", "a large family"),
        ),
    ),
)
"""What says nothing about any criterion."""

SHARES: dict[str, float] = {
    "DEPRESSED_MOOD": 0.40,
    "ANHEDONIA": 0.10,
    "APPETITE_CHANGE": 0.05,
    "SLEEP_ISSUES": 0.12,
    "PSYCHOMOTOR": 0.04,
    "FATIGUE": 0.11,
    "WORTHLESSNESS": 0.34,
    "COGNITIVE_ISSUES": 0.07,
    "SUICIDAL_THOUGHTS": 0.15,
}
"""The share of posts that show a criterion; as uneven as in ReDSM5."""
