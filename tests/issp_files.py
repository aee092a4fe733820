"""Two modules of ISSP as their files are: one of each era of names, drawn at random."""

import numpy as np
import pandas as pd
import pyreadstat

SIZE = 400
# Names in the old file are in upper case, in the new one in lower case but for the background.
OLD_COUNTRIES = {"DE-W": 276, "DE-E": 276, "GB-GBN": 826, "PH": 608, "BE-FLA": 56, "IL-J": 376}
NEW_COUNTRIES = {"DE": 276, "GB-GBN": 826, "CL": 152}

AGREE = {1: "Strongly agree", 2: "Agree", 3: "Neither", 4: "Disagree", 5: "Strongly disagree"}
OLD_ITEMS = {
    # name: text, labels, the codes that occur
    "V5": (
        "Q1a How close do you feel to [R's COUNTRY]?",
        AGREE | {8: "Can't choose", 9: "No answer"},
        (1, 2, 3, 4, 5, 8, 9),
    ),
    "V6": (
        "Q2 Trust in [COUNTRY NATIONALITY] parliament",
        {0: "0, No trust at all", 10: "10, Complete trust", 98: "Don't know", 99: "No answer"},
        (*range(11), 98, 99),
    ),
    "V7": ("Q3 Voted?", {0: "NAP", 1: "Yes", 2: "No", 9: "NA, refused"}, (0, 1, 2, 9)),
    "V8": (
        "Q4 Most important",
        {1: "Health", 2: "Crime", 8: "The economy", 9: "None of these", 98: "Can't choose"},
        (1, 2, 8, 9, 98),
    ),
    "V9": ("Q5 Hours a week", {0: "None", 95: "95 hours or more"}, (0, 12, 40, 95)),
    "V10": ("Q6 Birth year", {}, (1950, 1990)),
    "V11": ("Q7 Only here", {1: "Yes", 2: "No", 9: "No answer"}, (9,)),
    "V12": ("Q8 Stray", AGREE, (1, 5, 7)),
    "V13": (None, AGREE, (1, 5)),
}
NEW_ITEMS = {
    "v1": (
        "Q1 It is hard to get ahead in <COUNTRY>",
        {code: f"{code}. {label}" for code, label in AGREE.items()}
        | {-8: "-8. Can\u00b4t choose", -9: "-9. No answer"},
        (1, 2, 3, 4, 5, -8, -9),
    ),
    "v2": ("Q2a Top or bottom", {1: "1 Lowest", 10: "10 Highest", -9: "No answer"}, range(1, 11)),
    "v3": (
        "Q3 Recycles",
        {1: "Always", 2: "Often", 3: "Never", -4: "There is none where I live"},
        (1, 2, 3, -4),
    ),
}
BACKGROUND = {
    "SEX": ("", {1: "Male", 2: "Female"}, (1, 2)),
    "URBRURAL": ("", {1: "A big city", 5: "A farm"}, (1, 2, 3, 4, 5)),
    "MARITAL": ("", {1: "Married", 6: "Never"}, (1, 1, 1, 2, 3, 4, 5, 6)),
}
DEGREE = ("", {0: "No formal education", 6: "Upper level tertiary"}, (0, 1, 2, 3, 4, 5, 6))
EDULEVEL = (
    "",
    {
        0: "No formal education",
        1: "Primary school",
        2: "Lower secondary",
        3: "Upper secondary",
        4: "Post secondary, non-tertiary",
        5: "Short-cycle tertiary",
        6: "Lower level tertiary, first stage (Bachelor)",
        7: "Upper level tertiary (Master)",
        8: "Post tertiary, doctor",
        9: "Other",
        -9: "No answer",
    },
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -9),
)


def drawn(seed, countries, variables, first):
    random = np.random.default_rng(seed)
    codes = {name: random.choice(list(its), SIZE) for name, (_, _, its) in variables.items()}
    where = random.choice(list(countries), SIZE)
    weight = random.uniform(0.5, 2, SIZE).round(3)
    frame = pd.DataFrame(first | {"C_ALPHAN": where} | codes | {"WEIGHT": weight})
    return frame.astype(dict.fromkeys(codes, float))


def national_identity():
    """National Identity, 2013: V1 to V4 are administration, 8, 9, 98 and 99 no answer."""
    degree = DEGREE[0], DEGREE[1] | {9: "No answer"}, (*DEGREE[2], 9)
    marital = "", BACKGROUND["MARITAL"][1] | {7: "Concubinage", 9: "No answer"}, (1, 2, 6, 7, 9)
    items = OLD_ITEMS | BACKGROUND | {"DEGREE": degree, "MARITAL": marital}
    table = drawn(13, OLD_COUNTRIES, items, {"V1": 5950.0, "V2": "2.0.0", "V3": 1.0})
    return table.assign(V4=table["C_ALPHAN"].map(OLD_COUNTRIES), DE_V70=1.0, BIRTH=1970.0)


def environment():
    """Environment, 2020: items from v1, EDULEVEL in place of DEGREE, negative no answers."""
    items = NEW_ITEMS | BACKGROUND | {"EDULEVEL": EDULEVEL}
    table = drawn(20, NEW_COUNTRIES, items, {"studyno": 7650.0})
    table = table.rename(columns={"C_ALPHAN": "c_alphan"})
    return table.assign(country=table["c_alphan"].map(NEW_COUNTRIES))


def labelled(variables):
    texts = {name: text for name, (text, _, _) in variables.items()}
    return texts, {name: labels for name, (_, labels, _) in variables.items() if labels}


def sav(table, path, **changes):
    """2013 as SPSS has it. V6 and V8 declare their missing values; V5 and V7 only label them."""
    texts, labels = labelled(OLD_ITEMS | BACKGROUND | {"DEGREE": DEGREE})
    labels["MARITAL"] = labels["MARITAL"] | {7: "Concubinage", 9: "No answer"}
    labels["DEGREE"] = labels["DEGREE"] | {9: "No answer"}
    ranges = {"V6": [{"lo": 98, "hi": 99}], "V8": [98, 99], "MARITAL": [9], "V11": [9]}
    options = {"column_labels": texts, "variable_value_labels": labels, "missing_ranges": ranges}
    pyreadstat.write_sav(table, path, **(options | changes))
    return path


def dta(table, path, **changes):
    """2020 as Stata has it: no answer is a code with a label, and nothing else says so."""
    texts, labels = labelled(NEW_ITEMS | BACKGROUND | {"EDULEVEL": EDULEVEL})
    options = {"column_labels": texts, "variable_value_labels": labels}
    pyreadstat.write_dta(table, path, **(options | changes))
    return path
