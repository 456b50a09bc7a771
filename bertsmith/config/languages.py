"""Codes of languages: which there are, and which scripts they are written in."""

from __future__ import annotations

import difflib

from bertsmith.errors import ConfigError

_ISO_639_1 = """
aa aar Afar; ab abk Abkhazian; ae ave Avestan; af afr Afrikaans; ak aka Akan; am amh Amharic;
an arg Aragonese; ar ara Arabic; as asm Assamese; av ava Avaric; ay aym Aymara; az aze Azerbaijani;
ba bak Bashkir; be bel Belarusian; bg bul Bulgarian; bh bih Bihari; bi bis Bislama; bm bam Bambara;
bn ben Bengali; bo bod Tibetan; br bre Breton; bs bos Bosnian; ca cat Catalan; ce che Chechen;
ch cha Chamorro; co cos Corsican; cr cre Cree; cs ces Czech; cu chu Church Slavonic; cv chv Chuvash;
cy cym Welsh; da dan Danish; de deu German; dv div Dhivehi; dz dzo Dzongkha; ee ewe Ewe;
el ell Greek; en eng English; eo epo Esperanto; es spa Spanish; et est Estonian; eu eus Basque;
fa fas Persian; ff ful Fulah; fi fin Finnish; fj fij Fijian; fo fao Faroese; fr fra French;
fy fry Frisian; ga gle Irish; gd gla Gaelic; gl glg Galician; gn grn Guarani; gu guj Gujarati;
gv glv Manx; ha hau Hausa; he heb Hebrew; hi hin Hindi; ho hmo Hiri Motu; hr hrv Croatian;
ht hat Haitian; hu hun Hungarian; hy hye Armenian; hz her Herero; ia ina Interlingua;
id ind Indonesian; ie ile Interlingue; ig ibo Igbo; ii iii Sichuan Yi; ik ipk Inupiaq; io ido Ido;
is isl Icelandic; it ita Italian; iu iku Inuktitut; ja jpn Japanese; jv jav Javanese;
ka kat Georgian; kg kon Kongo; ki kik Kikuyu; kj kua Kuanyama; kk kaz Kazakh; kl kal Greenlandic;
km khm Khmer; kn kan Kannada; ko kor Korean; kr kau Kanuri; ks kas Kashmiri; ku kur Kurdish;
kv kom Komi; kw cor Cornish; ky kir Kyrgyz; la lat Latin; lb ltz Luxembourgish; lg lug Ganda;
li lim Limburgish; ln lin Lingala; lo lao Lao; lt lit Lithuanian; lu lub Luba-Katanga;
lv lav Latvian; mg mlg Malagasy; mh mah Marshallese; mi mri Maori; mk mkd Macedonian;
ml mal Malayalam; mn mon Mongolian; mr mar Marathi; ms msa Malay; mt mlt Maltese; my mya Burmese;
na nau Nauru; nb nob Bokmål; nd nde North Ndebele; ne nep Nepali; ng ndo Ndonga; nl nld Dutch;
nn nno Nynorsk; no nor Norwegian; nr nbl South Ndebele; nv nav Navajo; ny nya Chichewa;
oc oci Occitan; oj oji Ojibwa; om orm Oromo; or ori Odia; os oss Ossetian; pa pan Punjabi;
pi pli Pali; pl pol Polish; ps pus Pashto; pt por Portuguese; qu que Quechua; rm roh Romansh;
rn run Rundi; ro ron Romanian; ru rus Russian; rw kin Kinyarwanda; sa san Sanskrit;
sc srd Sardinian; sd snd Sindhi; se sme Northern Sami; sg sag Sango; sh hbs Serbo-Croatian;
si sin Sinhala; sk slk Slovak; sl slv Slovenian; sm smo Samoan; sn sna Shona; so som Somali;
sq sqi Albanian; sr srp Serbian; ss ssw Swati; st sot Sotho; su sun Sundanese; sv swe Swedish;
sw swa Swahili; ta tam Tamil; te tel Telugu; tg tgk Tajik; th tha Thai; ti tir Tigrinya;
tk tuk Turkmen; tl tgl Tagalog; tn tsn Tswana; to ton Tonga; tr tur Turkish; ts tso Tsonga;
tt tat Tatar; tw twi Twi; ty tah Tahitian; ug uig Uyghur; uk ukr Ukrainian; ur urd Urdu;
uz uzb Uzbek; ve ven Venda; vi vie Vietnamese; vo vol Volapük; wa wln Walloon; wo wol Wolof;
xh xho Xhosa; yi yid Yiddish; yo yor Yoruba; za zha Zhuang; zh zho Chinese; zu zul Zulu
"""
"""A language's code of two letters, its code of three, and its name."""

_ISO_639_3 = """
aae abs ace acm ady aeb aln als alt ami anp apc arn arq ary arz ast atj avk awa azb ban bar bbc bcc
bci bdr bew bgn bho bjn blk bpy bqi btm bug bxr cdo ceb ckb cpx crh csb din dsb dtp dty dua egl eml
ext fil fit fon frc frp frr fur gag gan gcf gcr gld glk gom gor got gsw guc hak haw hif hke hrx hsb
hsn hyw iba inh jut kaa kab kbd kbp kcg kea kge khw kiu kjh kjp knc koi krc krl ksh kum lad lbe lez
lij liv ljp lki lld lmo lrc ltg lua luz lzh lzz mad mag mai mdf mhr min mnc mni mnw mrj mui mwl myv
mzn nah nan nap nds new nia nqo nrf nrm nso nyn nyo olo pag pam pap pcd pcm pdc pdt pfl pms pnb pnt
pwn qug rgn rmy rsk rue rup ruq rut sah sat scn sco sdc sdh ses sgs shi shn shy sjd skr sli sma smn
srn stq sty szl szy tay tcy tet tpi trv ttj tum tyv udm vec vep vls vmf vmw vot vro war wuu xal xmf
yue zea zgh
"""
"""Languages that have a code of three letters only, and a Wikipedia or rules for sentences."""

_MEANT = dict(
    pair.split(":")
    for pair in (
        "at:de bd:bn cn:zh cz:cs dk:da gb:en gr:el il:he in:hi ir:fa iw:he jp:ja kp:ko rs:sr sp:es "
        "ua:uk us:en vn:vi alb:sq arm:hy baq:eu bur:my chi:zh cze:cs dut:nl fre:fr geo:ka ger:de "
        "gre:el ice:is mac:mk mao:mi may:ms per:fa rum:ro slo:sk tib:bo wel:cy "
        "cmn:zh swh:sw swc:sw kmr:ku zsm:ms ekk:et lvs:lv arb:ar pes:fa prs:fa azj:az npi:ne "
        "ory:or khk:mn uzn:uz pbt:ps plt:mg gaz:om ydd:yi ayr:ay quy:qu quz:qu fuv:ff"
    ).split()
)
"""What is meant by codes of countries, old codes, those of libraries (ISO 639-2/B), and those of
three letters for the main language of several that share a code of two."""

_SCRIPTS = {
    "Arabic": "ar fa ur ps az ks ku pa sd ug acm aeb apc arq ary arz azb bcc bgn bqi ckb glk khw "
    "lki lrc mzn pnb sdh skr",
    "Armenian": "hy hyw",
    "Bengali": "bn as bpy mni",
    "Bopomofo": "zh",
    "Canadian": "cr iu oj",
    "Cyrillic": "ru uk bg sr ab av az ba be bs ce cu cv kk kv ky mk mn os ro sh tg tk tt ug uz ady "
    "alt bxr crh inh kbd kjh koi krc kum lbe lez mdf mhr mrj myv rsk rue sah sjd tyv udm "
    "xal",
    "Cjk": "zh ja ko cdo cpx gan hak hsn lzh nan wuu yue",
    "Devanagari": "hi mr ne sa bh ks pi sd anp awa bho dty gom mag mai new",
    "Ethiopic": "am ti",
    "Georgian": "ka xmf",
    "Gothic": "got",
    "Greek": "el pnt",
    "Gujarati": "gu",
    "Gurmukhi": "pa",
    "Hangul": "ko",
    "Hebrew": "he yi lad",
    "Hiragana": "ja",
    "Kannada": "kn tcy",
    "Katakana": "ja",
    "Khmer": "km",
    "Lao": "lo",
    "Malayalam": "ml",
    "Meetei": "mni",
    "Mongolian": "mn",
    "Myanmar": "my blk mnw shn",
    "Nko": "nqo",
    "Ol": "sat",
    "Oriya": "or",
    "Sinhala": "si pi",
    "Tamil": "ta",
    "Telugu": "te",
    "Thaana": "dv",
    "Thai": "th pi",
    "Tibetan": "bo dz",
    "Tifinagh": "shi shy zgh",
    "Yi": "ii",
}
"""Languages by script, as the names of Unicode's characters begin; all others in Latin letters.
Those that most people read come first."""

_ALSO_LATIN = frozenset(
    "az bs crh cr iu ks ku lad mn pi ro sa sh shi shy sr tk tt ug uz cdo hak nan sat mni".split()
)

_ROWS = [row.strip().split(" ", 2) for row in _ISO_639_1.split(";")]

NAMES = {code: name for code, _, name in _ROWS}
"""Languages by their code of two letters (ISO 639-1)."""

_SHORTEST_NAME = 4
"""Letters; what is shorter is a code, which is not like a name."""

_OF_THREE = {three: code for code, three, _ in _ROWS}


def check_language(language: str) -> None:
    """Raise `ConfigError` for a code that is not in the tables, with the one that may be meant."""
    code = language.partition("-")[0]
    if code in NAMES or code in _ISO_639_3.split():
        return
    # Some 8,000 languages have a code of three letters, so that one that isn't known may be right.
    is_three = len(code) == 3 and code.isascii() and code.isalpha()
    found = "There are no rules for the language" if is_three else "There is no language"
    raise ConfigError(f"{found} {language!r} (ISO 639); {_suggestion(code.lower())}")


def scripts_of(language: str) -> frozenset[str]:
    """The scripts that a language is written in, as the names of their letters begin."""
    code, *parts = language.lower().split("-")
    found = {script for script, codes in _SCRIPTS.items() if code in codes.split()}
    if not found or code in _ALSO_LATIN or "latn" in parts:
        found.add("Latin")
    if "cyrl" in parts:
        found.add("Cyrillic")
    if "arab" in parts:
        found.add("Arabic")
    return frozenset(found)


def languages_in(script: str) -> list[str]:
    """Languages that are written in a script and have a code of two letters."""
    return [code for code in _SCRIPTS.get(script, "").split() if code in NAMES]


def _suggestion(code: str) -> str:
    meant = code if code in NAMES else _MEANT.get(code) or _OF_THREE.get(code)
    if meant is None and len(code) >= _SHORTEST_NAME:
        by_name = {name.lower(): known for known, name in NAMES.items()}
        close = difflib.get_close_matches(code, by_name, n=1)
        meant = by_name[close[0]] if close else None
    if meant is None:
        return "leave `language` out, or name a related one."
    return f"did you mean {meant} ({NAMES[meant]})?"
