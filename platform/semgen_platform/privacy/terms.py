"""Words that a text attribute may be made of, in lower case. A word that could be somebody's name is a loss that is
accepted only where scanners really write it.

Sources: DICOM PS3.16 Annex L (Body Part Examined); names of CT scanners and reconstruction kernels as their makers'
DICOM conformance statements and product pages give them.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BODY_PARTS = _words("""
    ABDOMEN ABDOMENPELVIS ABDOMINALAORTA ACJOINT ADRENAL ANKLE AORTA AORTICARCH APPENDIX ARM AXILLA BACK BILEDUCT
    BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEST CHESTABDOMEN CHESTABDPELVIS
    CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE
    FACE FEMUR FIBULA FINGER FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW
    JEJUNUM KIDNEY KNEE LARGEINTESTINE LARYNX LEG LIVER LSPINE LSSPINE LUNG MASTOID MAXILLA MEDIASTINUM MOUTH
    NASOPHARYNX NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE OPTICCANAL ORBIT OVARY PANCREAS PAROTID
    PATELLA PELVIS PHARYNX PROSTATE RADIUS RADIUSULNA RECTUM RIB SCAPULA SCJOINT SELLA SESAMOID SHOULDER SIJOINT
    SKULL SMALLINTESTINE SPINE SPLEEN SSPINE STERNUM STOMACH SUBMANDIBULAR TESTIS THIGH THUMB THYMUS THYROID TIBIA
    TIBIAFIBULA TLSPINE TMJ TOE TONGUE TRACHEA TSPINE ULNA UPRURINARYTRACT URETER URETHRA UTERUS WHOLEBODY WRIST
    ZYGOMA
""")

MAKERS = _words("""
    accuray anke canon carestream curvebeam elekta elscint epica fujifilm ge hitachi imatron imtec marconi mediso
    minfound neurologica neusoft philips picker planmeca samsung shimadzu siemens sinovision sirona tomotherapy
    toshiba uih united varian vatech wandong xoran
""")

COMPANY_WORDS = _words("""
    a ag and b beijing best care co company corp corporation ct diagnostic diagnostics division electric electron
    electronics equipment general gmbh group health healthcare healthineers holdings imaging inc incorporated
    instruments international kg limited llc ltd mec medical nl of shanghai shenzhen solutions systems technologies
    technology the v
""")

KERNEL_WORDS = _words("""
    abdomen adaptive angio asir axial body bone boneplus brain cardiac chest chst contour convolution dental detail
    detl ear edge enhanced extra extremity filter fine general hd head heart high hr idose imr infant inner
    iterative kernel large liver low lung mediastinum medium none normal osteo pediatric plus purpose quantitative
    recon res resolution sharp sinus small smooth soft spine standard std stnd uhr ultra vascular veo very vsharp
    vsoft ydetail ysharp
""")

MODEL_WORDS = _words("""
    7500 8000 8800 9800 access ace act activion advantage airo alexion all alpha anatom apex aquilion as ascend
    asteion aura balance big biograph bodytom bold bore brightspeed brightview brilliance cardiac cartesion
    celesteion ceretom cite classic confidence core ct cxl definition discovery drive dual duo eclos edge edition
    elite emotion epoch essence evo exceed excel expert flash force frontier gemini genesis glory go grande gsi gxl
    hd hirez hispeed horizon i ict idt incisive infinia ingenuity insight intevo iq iqon lb light lightning
    lightspeed ls lx max maxima mct mi mx naeotom neuviz now nx omnitom oncology one open optima peak perspective
    plus power precedence precision presto prime pro prospeed quadra quick qx revolution rhapsode robusto rt rx rxl
    scan scenaria scintcare scope secura select sensation serve sim smile somaris somatom sp spectral speed spirit
    st start ste super supria symbia synergy tf tof tomograph tomoscan top truepoint turbo twin uct ultra umi up vct
    vereos view vision volume wave x xpress xt xtra xvigor xvision zoom
""")
